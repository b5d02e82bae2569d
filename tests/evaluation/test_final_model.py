"""Metrics of the final model, calibration inside the artifact, and a trace, for every task."""

import json

import numpy as np
import pytest
from sklearn import metrics as skm
from tables_of_other_kinds import houses, plants

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.artifact.export import save, write_manifest
from mle_project.artifact.predictor import Predictor
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.evaluation.trace import trace
from mle_project.modeling.bootstrap import weighted_metrics
from mle_project.modeling.calibration import CalibratedModel, fit_calibration
from mle_project.modeling.families import build_family
from mle_project.modeling.metrics import all_metrics, interval_coverage, predict, threshold_metrics


def random_predictions(task, rows=500, seed=0):
    """Targets and predictions with ties, unequal classes, and one class that is never seen."""
    chance = np.random.default_rng(seed)
    if task == "regression":
        return chance.normal(size=rows), chance.normal(size=rows).round(1)
    classes = 2 if task == "binary" else 4
    p = chance.dirichlet(np.ones(classes), rows).round(2) + 1e-3
    return chance.integers(0, min(classes, 3), rows), p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_weight_is_a_row_that_comes_up_so_often(task):
    """The bootstrap's fast measures equal scikit-learn's, on all rows and on any draw of them."""
    y, p = random_predictions(task)
    drawn = np.random.default_rng(1).integers(0, len(y), len(y))
    fast = weighted_metrics(task, y, p, 0.4, 0.8)(
        np.bincount(drawn, minlength=len(y)).astype(float)
    )
    slow = all_metrics(task, y[drawn], p[drawn])
    slow |= threshold_metrics(y[drawn], p[drawn][:, 1], 0.4) if task == "binary" else {}
    slow |= (
        {"interval_coverage": interval_coverage(y[drawn], p[drawn], 0.8)}
        if task == "regression"
        else {}
    )
    assert fast == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("family", ["linear", "boosting"])
@pytest.mark.parametrize("table", [plants, houses])
def test_a_trace_ends_with_the_prediction(table, family, tmp_path):
    """Step by step the fitted model comes to the compiled one's prediction."""
    kind = table()
    contract = kind.contract
    frame = kind.frame
    x = feature_frame(frame, contract)
    y = encode_target(frame, contract)
    model = build_family(family, {"max_iter": 100} if family == "boosting" else {}, contract, 0).fit(
        x, y
    )
    if contract.task != "regression":
        model = CalibratedModel(
            model, {"method": "scaling", "power": 0.8, "factors": [1.0, 1.3, 0.7]}
        )
    save(tmp_path / "final", model, contract, kind.text, {"threshold": None}, x)
    write_manifest(tmp_path / "final")
    predictor = Predictor(tmp_path / "final")
    np.testing.assert_allclose(
        predict(model, x, contract.task), predictor.predict_frame(frame), rtol=1e-4, atol=2e-6
    )
    records = json.loads(frame[contract.features].head(5).to_json(orient="records"))
    for record in records:
        last = trace(model, contract, record)[-1].values
        prediction = predictor.format_predictions(predictor.predict_records([record]))[0]
        if contract.task == "regression":
            assert last[contract.target.name] == pytest.approx(prediction["value"], rel=1e-5)
        else:
            assert last["label"] == prediction["label"]


def test_a_calibration_repairs_a_model_that_is_too_sure_and_keeps_the_order():
    chance = np.random.default_rng(2)
    true = chance.dirichlet(np.ones(3), 4000)
    y = (true.cumsum(axis=1) > chance.random(4000)[:, None]).argmax(axis=1)
    sure = true**1.8 / (true**1.8).sum(axis=1, keepdims=True)
    calibration = fit_calibration("power", y[:2000], sure[:2000])

    class Sure:
        classes_ = np.arange(3)

        def predict_proba(self, x):
            return sure[x]

    after = CalibratedModel(Sure(), calibration).predict_proba(np.arange(2000, 4000))
    assert calibration["power"] == pytest.approx(1 / 1.8, abs=0.05)
    assert skm.log_loss(y[2000:], after) < skm.log_loss(y[2000:], sure[2000:]) - 0.02
    assert (after.argmax(axis=1) == sure[2000:].argmax(axis=1)).all()
