"""The artifact in a process that knows nothing of notebooks, and damage to it."""

import json
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import yaml
from fresh_process import FRESH
from sklearn.datasets import load_breast_cancer

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.artifact.onnx import compile_model
from mle_project.artifact.parity import TOLERANCE, edge_case_rows, max_difference, output_scale
from mle_project.artifact.predictor import Predictor, open_session, run_session
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.contract import parse_contract
from mle_project.core.project import ProjectError
from mle_project.core.request_model import example_record
from mle_project.evaluation.trace import trace
from mle_project.modeling.families import build_family
from mle_project.modeling.metrics import all_metrics, predict


@pytest.fixture(scope="module")
def test_rows(sample) -> pd.DataFrame:
    return pd.read_parquet(sample.root / "data" / "tables" / "test.parquet")


def test_a_fresh_process_gives_the_notebooks_numbers(sample, test_rows, tmp_path):
    records = test_rows.astype(object).where(test_rows.notna(), None)
    names = Predictor(sample.root / "models" / "final").contract.features
    (tmp_path / "records.json").write_text(records[names].to_json(orient="records"))
    output = json.loads(
        sample.run(sys.executable, "-c", FRESH, str(tmp_path / "records.json")).stdout
    )
    metrics = sample.root / "metrics"
    printed = json.loads((metrics / "final_model.json").read_text())
    assert output["digest"] == json.loads((metrics / "model.json").read_text())["model"]
    predictor = Predictor(sample.root / "models" / "final")
    numbers = np.array(output["predictions"])
    np.testing.assert_array_equal(numbers, predictor.predict_frame(test_rows))
    scores = all_metrics(
        predictor.contract.task, encode_target(test_rows, predictor.contract), numbers
    )
    assert scores == pytest.approx(printed["test"], abs=1e-9)


def test_the_native_model_agrees(sample, test_rows):
    predictor = Predictor(sample.root / "models" / "final")
    native = joblib.load(sample.root / "models" / "final" / "native.joblib")
    expected = predict(
        native, feature_frame(test_rows, predictor.contract), predictor.contract.task
    )
    assert (
        max_difference(expected, predictor.predict_frame(test_rows), output_scale(expected))
        <= TOLERANCE[predictor.contract.task]
    )


@pytest.fixture(scope="module")
def measurements():
    """Thirty numbers, some of them usually hundredths, and two separable classes."""
    table = load_breast_cancer(as_frame=True)
    x = table.data.astype(np.float32).rename(columns=lambda name: name.replace(" ", "_"))
    feature = {
        "type": "number",
        "description": "A measure.",
        "role": "feature",
        "available": "before_prediction",
        "example": 1.0,
    }
    columns = {name: feature for name in x}
    columns["bad"] = {
        "type": "boolean",
        "description": "The target.",
        "role": "target",
        "available": "after_prediction",
    }
    columns["bad"]["labels"] = {False: "benign", True: "malignant"}
    text = yaml.safe_dump(
        {"description": "One cell.", "task": "binary", "columns": columns}, sort_keys=False
    )
    return parse_contract(text), x, table.target.to_numpy()


@pytest.mark.parametrize("scaler", ["standard", "robust"])
@pytest.mark.parametrize("reduction", ["none", "pca"])
@pytest.mark.parametrize("transform", ["none", "log", "quantile"])
def test_a_linear_model_in_small_units_is_compiled_to_the_last_digit(
    measurements, transform, reduction, scaler
):
    """A million where a hundredth is usual, and large weights: 6e-6 apart with other roundings."""
    contract, x, y = measurements
    hyperparameters = {
        "transform": transform,
        "scaler": scaler,
        "reduction": reduction,
        "variance": 0.99,
        "alpha": 1e-4,
    }
    model = build_family("linear", hyperparameters, contract, 0).fit(x, y)
    rows = edge_case_rows(x, len(contract.numeric_features))
    compiled = run_session(
        open_session(compile_model(model, contract)),
        rows.to_numpy(np.float32),
        np.empty((len(rows), 0), object),
    )
    assert max_difference(predict(model, rows, "binary"), compiled) < np.finfo(np.float32).eps


@pytest.mark.parametrize("family", ["linear"])  # a network goes further, in test_keras_export
def test_another_family_arrives_in_the_same_form(changeable, family):
    changeable.params(final_model__family=family)
    changeable.run("mle", "run", "final_model")
    changeable.run("mle", "card")
    folder = changeable.root / "models" / "final"
    names = {
        "contract.yaml",
        "example.json",
        "model.json",
        "card.md",
        "card.html",
        "manifest.json",
        "typical.json",
        "query.json",
        "metrics.json",
    }
    assert {path.name for path in folder.iterdir()} == names | {"model.onnx", "native.joblib"}
    rows = pd.read_parquet(changeable.root / "data" / "tables" / "test.parquet").head(300)
    predictor = Predictor(folder)
    record = example_record(predictor.contract)
    steps = trace(
        joblib.load(folder / "native.joblib"),
        predictor.contract,
        record,
        predictor.metadata["threshold"],
    )
    prediction = predictor.format_predictions(predictor.predict_records([record]))[0]
    key = "value" if predictor.contract.task == "regression" else "label"
    assert steps[0].values == record and (
        key == "value" or steps[-1].values[key] == prediction[key]
    )
    expected = predict(
        joblib.load(folder / "native.joblib"),
        feature_frame(rows, predictor.contract),
        predictor.contract.task,
    )
    assert (
        max_difference(expected, predictor.predict_frame(rows), output_scale(expected))
        <= TOLERANCE[predictor.contract.task]
    )


def test_a_flipped_byte_is_found(changeable):
    path = changeable.root / "models" / "final" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ProjectError, match="model.onnx differ"):
        Predictor(path.parent)
