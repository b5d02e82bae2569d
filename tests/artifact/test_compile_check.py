"""A family is compiled on a hundred rows before it is searched."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from tables_of_other_kinds import houses, plants

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.artifact.compile_check import assert_compiles
from mle_project.artifact.converters import STEPS, register_step
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.project import ProjectError
from mle_project.data.splits import cv_splits
from mle_project.modeling.families import FAMILIES, toy_model
from mle_project.modeling.tuning import Search


class Cube(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    "The third power."

    def fit(self, x, y=None):
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, x):
        return (np.asarray(x) ** 3).astype(np.float32)


def search_of(family, table):
    x = feature_frame(table.frame, table.contract)
    y = encode_target(table.frame, table.contract)
    folds = cv_splits(table.frame, table.contract, 2)
    return Search(family, x, y, folds, table.contract, "log_loss")


@pytest.fixture
def search_with(monkeypatch):
    "A search of a family that may put a step before its model."

    def make(step):
        def cubes(hp, contract, seed):
            toy = toy_model(contract, linear=True)
            if hp.Choice("bend", ["none", "cube"]) == "none":
                return toy
            return Pipeline([toy.steps[0], ("bend", step), toy.steps[1]])

        monkeypatch.setitem(FAMILIES, "cubes", cubes)
        monkeypatch.setattr("mle_project.artifact.converters.STEPS", dict(STEPS))
        return search_of("cubes", plants(200))

    return make


@pytest.mark.parametrize("table", [plants, houses])
@pytest.mark.parametrize("family", ["prior", "linear", "forest", "boosting", "network"])
def test_the_projects_own_families_pass(family, table):
    assert_compiles(search_of(family, table(200)))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Cube(), "the step `Cube` has no converter to ONNX"),
        (FunctionTransformer(np.cbrt), "it cannot be compiled to ONNX: "),
    ],
)
def test_a_step_without_a_converter_is_named_with_the_remedy(step, said, search_with):
    with pytest.raises(ProjectError, match=f"family `cubes` with bend: cube: {said}") as raised:
        assert_compiles(search_with(step))
    assert "register_step" in str(raised.value) and "nbs/03_features.ipynb" in str(raised.value)


def test_a_step_with_its_converter_passes(search_with):
    search = search_with(Cube())
    register_step(Cube, lambda step, x, ops, v: ops.OnnxMul(ops.OnnxMul(x, x, **v), x, **v))
    assert_compiles(search)


def test_a_converter_that_computes_something_else_is_found(search_with):
    search = search_with(Cube())
    register_step(Cube, lambda step, x, ops, v: ops.OnnxMul(x, x, **v))
    with pytest.raises(ProjectError, match="family `cubes` with bend: cube: .*differ"):
        assert_compiles(search)
