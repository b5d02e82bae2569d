"""A process that has the packages of the service and no more."""

# What the service's environment lacks cannot be imported; the model predicts from JSON records.
FRESH = """
import sys
absent = "sklearn tensorflow keras keras_tuner pandas pandera nbdev papermill dvc skl2onnx ibis"
for name in [*absent.split(), "matplotlib"]:
    sys.modules[name] = None
import json
from mle_project.artifact.predictor import Predictor
predictor = Predictor("models/final")
predictions = predictor.predict_records(json.load(open(sys.argv[1])))
print(json.dumps({"digest": predictor.digest, "predictions": predictions.tolist()}))
"""
