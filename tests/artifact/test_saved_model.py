"""The exported network: read by TensorFlow alone, twice the same, and with 8-bit integers.

And a network that is forced to win.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from contracts import draw_values
from projects import ROOT, stages_run
from servers import serving
from tables_of_other_kinds import plants

from mle_project.artifact.parity import TOLERANCE, max_difference, output_scale
from mle_project.artifact.predictor import Predictor, read_artifact
from mle_project.artifact.saved_model import serving_request
from mle_project.core.arrays import feature_frame
from mle_project.core.contract import EXAMPLE, parse_contract
from mle_project.core.strategies import sample_records, valid_records
from mle_project.core.validation import records_frame
from mle_project.modeling.calibration import apply_calibration
from mle_project.modeling.columnar import rowwise_violations
from mle_project.modeling.metrics import predict

WORDS = """
description: A word
task: multiclass
columns:
  hired bikes: {type: string, description: Any word., role: feature, available: before_prediction,
    nullable: true, example: a}
  from: {type: string, description: One of two., role: feature, available: before_prediction,
    nullable: true, categories: [ü, ☃], out_of_range: as_missing, example: ü}
  kind: {type: string, description: The answer., role: target, available: after_prediction,
    categories: [x, y, z], example: x}
"""

MEASURES = """
description: A measurement
task: regression
columns:
  Température (°C): {type: number, description: Warmth., role: feature,
    available: before_prediction, nullable: true, range: [-50.1, 60],
    out_of_range: as_missing, example: 1.5}
  1st: {type: boolean, description: Whether it is the first., role: feature,
    available: before_prediction, nullable: true, example: true}
  n/a: {type: integer, description: A count., role: feature, available: before_prediction,
    range: [0, null], out_of_range: warn, example: 3}
  level: {type: number, description: The answer., role: target, available: after_prediction,
    example: 2}
"""

TEXTS = {"visits": EXAMPLE, "plants": plants().text, "words": WORDS, "measures": MEASURES}

# One of words and one of numbers, for features that the contract may treat as missing.
SELECTS = {
    "words": """SELECT *, COALESCE("from" = 'ü', "hired bikes" = 'a') AS known,
      CASE WHEN "from" IS NULL THEN 'none' ELSE "hired bikes" END AS word FROM record""",
    "measures": """SELECT *, LN("n/a" + 1) * "Température (°C)" AS warm,
      POWER(MOD("Température (°C)", 7), 2) AS rest, ROUND("Température (°C)") AS degrees,
      "1st" AND "n/a" BETWEEN 2 AND 9 AS few, LEAST("n/a" / "Température (°C)", 4) AS share
      FROM record""",
}
CALIBRATIONS = {"visits": {"method": "power", "power": 1.2, "factors": [1.0, 1.0]}}
CALIBRATIONS |= {"plants": {"method": "scaling", "power": 0.9, "factors": [1.0, 1.3, 0.8]}}

# Fits and exports a network for each contract; the rows are made from a seed.
EXPORT = """
import os, sys
from pathlib import Path
from mle_project.core.project import DETERMINISTIC_ENV
for name in set(DETERMINISTIC_ENV) - {"PYTHONHASHSEED"}:
    os.environ[name] = DETERMINISTIC_ENV[name]
import json
import numpy as np
from mle_project.modeling.calibration import NO_CALIBRATION, with_calibration
import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.modeling.families import build_family
from mle_project.core.contract import parse_contract
from mle_project.core.arrays import feature_frame
from mle_project.core.validation import records_frame
from mle_project.artifact.sql_transformer import Features, sql_columns
from mle_project.keras_export import export_network
from mle_project.core.strategies import sample_records
inputs = json.load(open(sys.argv[1]))
for name, text in inputs["contracts"].items():
    contract = parse_contract(text)
    rows = records_frame(sample_records(contract, 500, seed=1))
    columns = sql_columns(contract, inputs["selects"].get(name, "SELECT * FROM record"))
    features = Features(contract, columns.extend(contract), columns)
    x = feature_frame(features.add(rows), features.contract)
    chance = np.random.default_rng(0)
    if contract.task == "regression":  # something to learn: of noise any network is as good
        ranks = x[features.contract.numeric_features].rank(pct=True).fillna(0.5).sum(axis=1)
        y = 200 + 30 * ((ranks - ranks.mean()) / ranks.std()).to_numpy() + chance.normal(0, 5, 500)
    else:
        y = np.arange(500) % len(contract.classes)
    hyperparameters = {"epochs": 3, "units": 16}
    network = build_family("network", hyperparameters, features.contract, 0).fit(x, y)
    network = with_calibration(network, inputs["calibrations"].get(name, NO_CALIBRATION))
    network = features.prepend_to(network)
    x = x[contract.features]
    interval = {"half_width": 5.0, "coverage": 0.9} if contract.task == "regression" else None
    metadata = {"threshold": 0.5, "interval": interval}
    export = export_network(Path(sys.argv[2]) / name, network, contract, text, metadata, rows, x)
    (Path(sys.argv[2]) / name / "about.json").write_text(json.dumps(export))
"""

# A client's view: TensorFlow, a request in JSON, nothing else.
ALONE = """
import sys
for name in ("keras", "mle_project", "onnx", "onnxruntime", "pandas", "sklearn"):
    sys.modules[name] = None
import json
import tensorflow as tf
outputs = {}
v1 = tf.compat.v1
for name in sys.argv[2:]:
    rows = json.load(open(f"{sys.argv[1]}/{name}.json"))["instances"]
    folder = f"{sys.argv[1]}/{name}/saved_model/1"
    if name in ("words", "measures"):  # their columns have names that Python does not allow
        with tf.Graph().as_default(), v1.Session() as session:
            meta_graph = v1.saved_model.load(session, ["serve"], folder)
            signature = meta_graph.signature_def["serving_default"]
            wanted = {key: tf.dtypes.as_dtype(one.dtype) for key, one in signature.inputs.items()}
            names = {key: one.name for key, one in signature.outputs.items()}
            inputs = {}
            for key, one in signature.inputs.items():
                inputs[one.name] = [row[key] for row in rows]
            tensors = session.run(names, inputs)
    else:
        model = tf.saved_model.load(folder)
        served = model.signatures["serving_default"]
        wanted = {key: spec.dtype for key, spec in served.structured_input_signature[1].items()}
        inputs = {}
        for key, dtype in wanted.items():
            inputs[key] = tf.constant([row[key] for row in rows], dtype)
        tensors = {key: tensor.numpy() for key, tensor in served(**inputs).items()}
    outputs[name] = {"inputs": {key: dtype.name for key, dtype in wanted.items()}}
    for key, values in tensors.items():
        texts = values.dtype == object
        outputs[name][key] = [one.decode() for one in values] if texts else values.tolist()
print(json.dumps(outputs))
"""


def start_process(*command: object, seed: str = "0") -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONHASHSEED": seed,
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "-c", *map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_process(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]
    return output


@pytest.fixture(scope="module")
def export_folders(tmp_path_factory) -> tuple[Path, Path]:
    "The networks, exported by two processes that order their sets differently."
    folders = (tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two"))
    texts = tmp_path_factory.mktemp("texts") / "texts.json"
    texts.write_text(
        json.dumps({"contracts": TEXTS, "calibrations": CALIBRATIONS, "selects": SELECTS})
    )
    for process in [
        start_process(EXPORT, texts, folder, seed=seed)
        for folder, seed in zip(folders, "12", strict=True)
    ]:
        finish_process(process)
    return folders


@pytest.fixture(scope="module")
def records() -> dict[str, list[dict]]:
    "Usual records, and any that the contract lets in: gaps, extremes, words never seen."
    contracts = {name: parse_contract(text) for name, text in TEXTS.items()}
    return {
        name: sample_records(contract, 100, seed=2) + draw_values(valid_records(contract), 100)
        for name, contract in contracts.items()
    }


@pytest.fixture(scope="module")
def tensorflow_outputs(export_folders, records) -> dict[str, dict]:
    "What the SavedModels answer in a process with TensorFlow alone."
    for name, rows in records.items():
        (export_folders[0] / f"{name}.json").write_text(
            json.dumps(serving_request(rows, parse_contract(TEXTS[name])))
        )
    return json.loads(finish_process(start_process(ALONE, export_folders[0], *TEXTS)))


def test_two_exports_have_equal_bytes(export_folders):
    one, two = map(read_artifact, export_folders)
    assert {name for name in one if name.endswith(".pb")} == {
        f"{name}/saved_model/1/saved_model.pb" for name in TEXTS
    }
    assert {name: content for name, content in one.items() if name in two} == two and len(
        two
    ) > 10 * len(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_tensorflow_alone_gives_the_artifacts_answers(
    name, export_folders, records, tensorflow_outputs
):
    predictor = Predictor(export_folders[0] / name / "float")
    outputs = tensorflow_outputs[name]
    contract = predictor.contract
    assert outputs.pop("inputs") == dict.fromkeys(
        contract.numeric_features, "float32"
    ) | dict.fromkeys(contract.categorical_features, "string")
    expected = predictor.predict_records(records[name])
    described = pd.DataFrame(predictor.format_predictions(expected))
    assert set(outputs) == set(described)
    for key in set(described) - {"label", "probabilities"}:
        assert (
            max_difference(
                described[key].to_numpy(), np.array(outputs[key]), output_scale(expected)
            )
            <= TOLERANCE[contract.task]
        ), key
    if "probabilities" in outputs:
        assert (
            max_difference(expected, np.array(outputs["probabilities"])) <= TOLERANCE[contract.task]
        )
    if "label" in outputs:
        near = (
            np.sort(expected, axis=1)[:, -1] - np.sort(expected, axis=1)[:, -2] < 1e-5
        )  # either label will do
        assert [
            one for one, same in zip(outputs["label"], near, strict=True) if not same
        ] == described["label"][~near].tolist()


@pytest.mark.parametrize("name", TEXTS)
def test_integers_are_close_and_work_within_a_row(name, export_folders, records):
    exact = Predictor(export_folders[0] / name / "float")
    small = Predictor(export_folders[0] / name / "int8")
    assert small.digest != exact.digest and small.metadata["quantized"] == "int8"
    usual = records_frame(records[name][:100])
    expected = exact.predict_frame(usual)
    outputs = small.predict_frame(usual)
    assert 0 < np.abs(expected - outputs).mean() < 0.05 * max(1.0, expected.std())
    assert (
        rowwise_violations(
            small.predict_frame, records_frame(records[name]), alone=20, tolerance=1e-6
        )
        == []
    )


def test_a_calibration_is_in_the_answers(export_folders, records):
    "The outputs are the network's, calibrated; without the calibration they are others."
    for name, calibration in CALIBRATIONS.items():
        folder = export_folders[0] / name / "float"
        model = joblib.load(folder / "native.joblib")
        predictor = Predictor(folder)
        rows = feature_frame(records_frame(records[name]), predictor.contract)
        plain = predict(model.model, rows, "multiclass")
        calibrated = predictor.predict_records(records[name])
        assert (
            max_difference(apply_calibration(plain, calibration), calibrated)
            <= TOLERANCE["binary"]
            < 0.01
            < max_difference(plain, calibrated)
        )


def test_the_stage_says_what_it_wrote(sample):
    folder = sample.root / "models" / "keras"
    about = json.loads((folder / "about.json").read_text())
    assert about["exported"] and about["digests"]["int8"] == Predictor(folder / "int8").digest
    loss = about["validation"]
    assert loss["rows"] == len(
        pd.read_parquet(sample.root / "data" / "tables" / "validation.parquet")
    )
    for name, value in loss["float"].items():
        assert abs(value - loss["int8"][name]) == pytest.approx(abs(loss["loss"][name])) and abs(
            loss["loss"][name]
        ) < 0.05 * max(1.0, abs(value))
    request = json.loads((folder / "request.json").read_text())
    assert set(request["instances"][0]) == set(Predictor(folder / "float").contract.features)


def test_a_network_forced_to_win_goes_the_whole_way(changeable):
    "Experiment, artifact, leakage, bento and service; and the exported network is the same."
    changeable.run("git", "add", "-A")
    changeable.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "run"
    )
    process = changeable.run("dvc", "exp", "run", "-S", "final_model.family=network")
    assert stages_run(process.stdout) == [
        "importance",
        "final_model",
        "card",
        "leakage",
        "bento",
        "report",
    ]
    final = changeable.root / "models" / "final"
    keras = changeable.root / "models" / "keras"
    assert (final / "model.onnx").read_bytes() == (keras / "float" / "model.onnx").read_bytes()
    rows = pd.read_parquet(changeable.root / "data" / "tables" / "test.parquet").head(300)
    with serving(changeable) as server:
        contract = server.predictor.contract
        outputs = server.predictor.predict_frame(rows)
        native = predict(
            joblib.load(final / "native.joblib"), feature_frame(rows, contract), contract.task
        )
        assert max_difference(native, outputs, output_scale(native)) <= TOLERANCE[contract.task]
        status, answer = server.post(
            {"records": json.loads(rows[contract.features].to_json(orient="records"))}
        )
        assert status == 200 and answer == {
            "predictions": server.predictor.format_predictions(outputs),
            "model": server.predictor.digest,
        }
