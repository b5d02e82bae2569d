"""The file of hyperparameters uses scikit-learn's names: its dictionaries make estimators."""

import inspect
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import Ridge
from tables_of_other_kinds import houses, plants

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.artifact.onnx import compile_model
from mle_project.artifact.parity import edge_case_rows, max_difference
from mle_project.artifact.predictor import open_session, run_session
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.contract import parse_contract
from mle_project.core.project import root
from mle_project.data.splits import cv_splits
from mle_project.features import PREPROCESSING, linear_preprocessor, tree_preprocessor
from mle_project.modeling.families import (
    FAMILIES,
    build_family,
    family_hyperparameters,
    group_hyperparameters,
)
from mle_project.modeling.metrics import predict
from mle_project.modeling.tuning import Search

ESTIMATORS = {
    "boosting": (HistGradientBoostingClassifier, HistGradientBoostingRegressor),
    "forest": (RandomForestClassifier, RandomForestRegressor),
    "linear": (Ridge, Ridge),  # C of logistic regression is the inverse of alpha
}


def default_values(table, family):
    """Every hyperparameter of a family, at its default."""
    x = feature_frame(table.frame, table.contract)
    y = encode_target(table.frame, table.contract)
    folds = cv_splits(table.frame, table.contract, 2)
    return dict(Search(family, x, y, folds, table.contract, "log_loss").space().values)


@pytest.mark.parametrize("table", [plants, houses])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_group_model_holds_parameters_of_the_estimator(family, table):
    table = table(60)
    values = default_values(table, family)
    groups = group_hyperparameters(values, PREPROCESSING)
    assert family_hyperparameters({"families": {family: groups}}, family) == values
    built = build_family(family, values, table.contract, 0)
    estimator = built.steps[-1][1] if hasattr(built, "steps") else built
    known = estimator.get_params()
    if "C" in known:
        known["alpha"] = 1 / known["C"]
    assert groups["model"] == {name: known[name] for name in groups["model"]}


def test_the_winner_of_the_file_can_be_pasted():
    chosen = json.loads((root() / "metrics" / "hyperparameters.json").read_text())
    pasted = set(chosen["families"]) & set(ESTIMATORS)
    assert pasted
    for family in pasted:
        groups = chosen["families"][family]
        assert set(groups) == {"model", "preprocessing"}
        for kind in ESTIMATORS[family]:
            estimator = kind(**groups["model"])
            assert groups["model"].items() <= estimator.get_params().items()


@pytest.mark.parametrize("preprocessor", [tree_preprocessor, linear_preprocessor])
def test_what_a_preprocessor_takes_is_named_as_preprocessing(preprocessor):
    options = set(inspect.signature(preprocessor).parameters) - {"contract", "seed"}
    assert options and options <= set(PREPROCESSING)


GRADES = ("awful", "weak", "fair", "better", "top")  # in another order than the alphabet's


@pytest.fixture(scope="module")
def graded():
    """Rows whose target grows with an ordered word; of one word in the middle there is none."""
    chance = np.random.default_rng(0)
    places = chance.choice([0, 1, 3, 4], 1200)
    text = f"""
description: One thing.
task: binary
columns:
  size: {{type: number, description: Its size., role: feature, available: before_prediction,
    example: 1.0}}
  grade: {{type: string, description: Its grade., role: feature, available: before_prediction,
    nullable: true, categories: [{", ".join(GRADES)}], ordered: true, out_of_range: as_missing}}
  sold: {{type: boolean, description: Sold., role: target, available: after_prediction}}
"""
    rows = pd.DataFrame(
        {
            "size": chance.normal(size=len(places)),
            "grade": np.array(GRADES, dtype=object)[places],
            "sold": chance.random(len(places)) < 0.1 + 0.2 * places,
        }
    )
    rows.loc[::50, "grade"] = None
    return parse_contract(text), rows


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"prior"}))  # it looks at no feature
def test_a_word_with_an_order_stands_between_its_neighbours(family, graded):
    contract, rows = graded
    x = feature_frame(rows, contract)
    model = build_family(family, {}, contract, 0).fit(x, encode_target(rows, contract))
    asked = pd.DataFrame({"size": 0.0, "grade": [*GRADES, "unheard of"]})
    asked = edge_case_rows(feature_frame(asked, contract), len(contract.numeric_features))
    expected = predict(model, asked, contract.task)
    lowest, low, unseen, high, highest = expected[: len(GRADES), 1]
    assert lowest < highest and low - 0.02 <= unseen <= high + 0.02
    compiled = run_session(
        open_session(compile_model(model, contract)),
        asked[contract.numeric_features].to_numpy(np.float32),
        asked[contract.categorical_features].to_numpy(object),
    )
    assert max_difference(expected, compiled) < 1e-5
