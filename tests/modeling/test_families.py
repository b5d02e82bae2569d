"""The file of hyperparameters speaks scikit-learn's language: its dictionaries construct estimators."""

import inspect
import json

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
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.project import root
from mle_project.data.splits import cv_splits
from mle_project.features import PREPROCESSING, linear_preprocessor, tree_preprocessor
from mle_project.modeling.families import (
    FAMILIES,
    build_family,
    family_hyperparameters,
    group_hyperparameters,
)
from mle_project.modeling.tuning import Search

ESTIMATORS = {
    "boosting": (HistGradientBoostingClassifier, HistGradientBoostingRegressor),
    "forest": (RandomForestClassifier, RandomForestRegressor),
    "linear": (Ridge, Ridge),  # C of logistic regression is the inverse of alpha
}


def default_values(table, family):
    """Every hyperparameter of a family, at its default."""
    x, y = feature_frame(table.frame, table.contract), encode_target(table.frame, table.contract)
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
