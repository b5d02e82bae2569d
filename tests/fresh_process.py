"""A process that has the packages of the service and no more."""

# What the service's environment lacks cannot be imported; then the model answers JSON records.
FRESH = """
import sys
for name in (
    "sklearn", "tensorflow", "keras", "keras_tuner", "pandas", "pandera",
    "nbdev", "papermill", "dvc", "skl2onnx", "ibis", "matplotlib",
):
    sys.modules[name] = None
import json
from mle_project.artifact.predictor import Predictor
predictor = Predictor("models/final")
found = predictor.answer_records(json.load(open(sys.argv[1])))
print(json.dumps({"digest": predictor.digest, "found": found.tolist()}))
"""
