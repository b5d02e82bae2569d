"""The law: an operation inside the model works within a row.

Shown for every registered operation, and for whole artifacts.
"""

import keras_tuner
import numpy as np
import pandas as pd
import pytest
from contracts import CONTRACTS, draw_values
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from tables_of_other_kinds import houses, plants

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.artifact.export import save, write_manifest
from mle_project.artifact.onnx import compile_model
from mle_project.artifact.parity import edge_case_rows, max_difference, output_scale
from mle_project.artifact.predictor import Predictor, open_session, run_session
from mle_project.core.arrays import encode_target, feature_frame, frame_to_arrays
from mle_project.core.contract import EXAMPLE, parse_contract
from mle_project.core.project import ProjectError, root
from mle_project.core.strategies import sample_records, valid_records
from mle_project.core.validation import records_frame
from mle_project.features import SELECTION_METHODS
from mle_project.modeling.columnar import COLUMNAR, columnar, rowwise_violations
from mle_project.modeling.families import FAMILIES, build_family
from mle_project.modeling.metrics import predict

FEWER = [{"reduction": name, "keep": 0.5} for name in (*SELECTION_METHODS, "pca")]
OPTIONS = {
    "tree_preprocessor": [
        {},
        {"encoding": "target"},
        {"missing": "impute"},
        {"reduction": "embedded"},
    ],
    "linear_preprocessor": [
        {},
        {"transform": "quantile"},
        {"transform": "log", "scaler": "robust"},
        {"encoding": "target"},
        *FEWER,
    ],
}
NOT_OFFERED = {"multiclass": [{"encoding": "target"}]}  # what a task does not offer
OPERATIONS = [(name, options) for name in COLUMNAR for options in OPTIONS.get(name, [{}])]


def answers_at_random(contract, count):
    """A target for rows that have none."""
    chance = np.random.default_rng(0)
    return (
        chance.normal(size=count)
        if contract.task == "regression"
        else np.arange(count) % len(contract.classes)
    )


def generate_rows(contract, count=150):
    """Rows as a model takes them: usual ones, and any that the contract lets in.

    The latter hold gaps, extremes and strings never seen.
    """
    return feature_frame(
        records_frame(
            sample_records(contract, count) + draw_values(valid_records(contract), count // 2)
        ),
        contract,
    )


@pytest.fixture(scope="module", params=CONTRACTS)
def rows(request):
    contract = CONTRACTS[request.param]
    return contract, generate_rows(contract)


@pytest.mark.parametrize(("name", "options"), OPERATIONS)
def test_every_registered_operation_keeps_the_law(name, options, rows):
    contract, x = rows
    if options in NOT_OFFERED.get(contract.task, []):
        return
    usual = x.head(150)
    fitted = COLUMNAR[name](contract, **options).fit(usual, answers_at_random(contract, len(usual)))
    assert rowwise_violations(fitted.transform, x, alone=30) == []


@pytest.mark.parametrize(("name", "options"), OPERATIONS)
def test_what_was_never_seen_is_one_and_the_same(name, options, rows):
    """All strings that no training row held become the same numbers, finite ones.

    Gaps in numbers stay rows.
    """
    contract, x = rows
    if options in NOT_OFFERED.get(contract.task, []) or name == "sql_columns":
        return  # the latter leaves strings as they are
    usual = x.head(150)
    k = len(contract.numeric_features)
    fitted = COLUMNAR[name](contract, **options).fit(usual, answers_at_random(contract, len(usual)))
    strange = pd.concat([usual.head(1)] * 2, ignore_index=True)
    for column in contract.categorical_features:
        pair = fitted.transform(strange.assign(**{column: ["never seen", "ü ☃"]}))
        assert np.array_equal(pair[0], pair[1], equal_nan=True) and np.isfinite(pair[:, k:]).all()
    gaps = fitted.transform(
        usual.assign(**{column: np.float32(np.nan) for column in contract.numeric_features})
    )
    assert len(gaps) == len(usual)


def test_a_value_outside_is_treated_as_the_contract_says():
    """`as_missing`: like a missing value, even when the training rows held it.

    `warn`: kept as it is.
    """
    contract = plants().contract
    at = {name: place for place, name in enumerate(contract.numeric_features)}
    usual = {
        "length": 80.0,
        "width": 30.0,
        "lobes": 5,
        "hairy": True,
        "edge": "wavy",
        "finder": "Ada",
        "site": "hill",
    }
    records = [
        {**usual, **change}
        for change in (
            {"lobes": 99, "site": "moon"},
            {"lobes": None, "site": None},
            {"width": 5000.0, "finder": "Zoe"},
        )
    ]
    numbers, strings = frame_to_arrays(records_frame(records), contract)
    assert np.isnan(numbers[:2, at["lobes"]]).all() and strings[
        :2, contract.categorical_features.index("site")
    ].tolist() == ["", ""]
    assert (
        numbers[2, at["width"]] == 5000
        and strings[2, contract.categorical_features.index("finder")] == "Zoe"
    )


# Planted operations, each a way to break the law that has been seen in real projects.
def drop_gaps(rows):
    return rows[rows.iloc[:, 1].notna()]


def sort_rows(rows):
    return rows.sort_values(rows.columns[0], kind="stable")


def sort_values(rows):
    return np.sort(rows.iloc[:, [0]].to_numpy(), axis=0)


def reset_index(rows):
    return rows.reset_index(drop=True)


def mutate(rows):
    rows.isetitem(0, rows.iloc[:, 0] * 2)
    return rows.iloc[:, [0]].copy()


def centre_on_batch(rows):
    return rows.iloc[:, [0]] - rows.iloc[:, [0]].mean()


def rank_in_batch(rows):
    return rows.iloc[:, [0]].rank()


def previous_row(rows):
    return rows.iloc[:, [0]].shift(1)


def one_row_too_many(rows):
    return pd.concat([rows, rows.tail(1)])


class Counter:
    calls = 0

    def __call__(self, rows):
        Counter.calls += 1
        return rows.iloc[:, [0]].fillna(0) * 0 + Counter.calls


PLANTED = {
    drop_gaps: "rows for",
    one_row_too_many: "rows for",
    sort_rows: "changes the index or the order of rows",
    reset_index: "changes the index or the order of rows",
    sort_values: "depends on the order of rows",
    previous_row: "depends on the order of rows",
    mutate: "changes the rows it is given",
    centre_on_batch: "gives one row alone something else than inside a batch",
    rank_in_batch: "gives one row alone something else than inside a batch",
    Counter(): "gives something else when asked again: it keeps a state",
}
named = pytest.mark.parametrize(
    "planted", PLANTED, ids=lambda planted: getattr(planted, "__name__", "counter")
)


@named
def test_a_planted_violation_is_found(planted):
    contract = parse_contract(EXAMPLE)
    violations = rowwise_violations(planted, generate_rows(contract))
    assert any(PLANTED[planted] in fault for fault in violations), violations


class Planted(TransformerMixin, BaseEstimator):
    """A transformer around a planted function."""

    def __init__(self, function):
        self.function = function

    def fit(self, rows, y=None):
        return self

    def transform(self, rows):
        return self.function(rows)


class AnyRows(LogisticRegression):
    """A classifier that is content with whatever rows reach it."""

    def fit(self, rows, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, rows):
        return np.full((len(rows), 2), 0.5)


@pytest.mark.parametrize("registered", [True, False])
@named
def test_an_artifact_with_it_is_rejected_by_name(planted, registered, tmp_path):
    contract = parse_contract(EXAMPLE)
    x = generate_rows(contract)

    def planted_operation(contract):
        return Planted(planted)

    operation = columnar(planted_operation)(contract) if registered else planted_operation(contract)
    try:
        model = Pipeline([("bend", operation), ("model", AnyRows())])
        model[-1].fit(x, None)
        with pytest.raises(ProjectError) as rejection:
            save(tmp_path / "final", model, contract, EXAMPLE, {"threshold": 0.5}, x)
    finally:
        COLUMNAR.pop("planted_operation", None)
    name = "the operation `planted_operation`" if registered else "the operation `bend` (Planted)"
    assert str(rejection.value).startswith(name) and PLANTED[planted] in str(rejection.value)
    assert not (tmp_path / "final").exists()


def test_an_innocent_operation_that_nobody_registered_is_rejected_too(tmp_path):
    contract = parse_contract(EXAMPLE)
    x = generate_rows(contract)
    model = Pipeline(
        [("bend", Planted(lambda rows: rows.iloc[:, :3].fillna(0))), ("model", AnyRows())]
    )
    model[-1].fit(x, None)
    with pytest.raises(
        ProjectError, match=r"the operation `bend` \(Planted\) is not registered as columnar"
    ):
        save(tmp_path / "final", model, contract, EXAMPLE, {"threshold": 0.5}, x)


def test_a_model_that_looks_at_the_whole_batch_is_rejected(tmp_path):
    contract = parse_contract(EXAMPLE)
    x = generate_rows(contract)

    class Shares(AnyRows):
        def predict_proba(self, rows):
            share = rows.iloc[:, 0].rank(pct=True).fillna(0).to_numpy()
            return np.column_stack([1 - share, share])

    with pytest.raises(ProjectError, match=r"the model `Shares` .*one row alone"):
        save(tmp_path / "final", Shares().fit(x, None), contract, EXAMPLE, {"threshold": 0.5}, x)


# Whole artifacts, saved and loaded: some families for each kind of table.
FAST = {
    "linear": {},
    "forest": {"n_estimators": 40, "max_leaf_nodes": 250},
    "boosting": {"max_iter": 20, "max_leaf_nodes": 6, "min_samples_leaf": 10},
    "network": {"epochs": 1, "units": 8},
}


def rows_of(name):
    """A contract's text, the contract, raw rows with a target."""
    if name in ("plants", "houses"):
        table = (plants if name == "plants" else houses)()
        return table.text, table.contract, table.frame
    text = EXAMPLE if name == "visits" else (root() / "contract.yaml").read_text()
    contract = parse_contract(text)
    frame = records_frame(sample_records(contract, 600, seed=1))
    target = np.random.default_rng(0).integers(0, 2, 600) == 1
    return text, contract, frame.assign(**{contract.target.name: target})


CASES = [
    (name, family)
    for name in CONTRACTS
    for family in FAST
    if family != "network" or name in ("visits", "plants")
]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def artifact(request, tmp_path_factory):
    name, family = request.param
    text, contract, frame = rows_of(name)
    hp = keras_tuner.HyperParameters()
    hp.values = dict(FAST[family])
    x = feature_frame(frame, contract)
    y = encode_target(frame, contract)
    model = FAMILIES[family](hp, contract, 0).fit(x, y)
    folder = tmp_path_factory.mktemp("law") / "final"
    save(folder, model, contract, text, {"threshold": 0.5}, x, tolerance=1e-5)
    write_manifest(folder)
    records = sample_records(contract, 120, seed=2) + draw_values(valid_records(contract), 60)
    return Predictor(folder), model, records, family


TRANSFORMS = [
    {"transform": transform, "scaler": scaler}
    for transform in ("none", "log")
    for scaler in ("standard", "robust")
]
CHOICES = [
    *[
        ("linear", {**choice, "encoding": encoding})
        for choice in [*TRANSFORMS, {"transform": "quantile"}]
        for encoding in ("onehot", "target")
    ],
    *[("linear", {"reduction": name, "keep": 0.3}) for name in SELECTION_METHODS],
    *[
        ("linear", {"reduction": "pca", "variance": share, "transform": "log"})
        for share in (0.9, 0.99)
    ],
    ("forest", {"n_estimators": 40, "encoding": "target"}),
    ("boosting", {"max_iter": 100, "reduction": "embedded", "keep": 0.7}),
]


@pytest.mark.parametrize("name", ["visits", "plants", "houses"])
@pytest.mark.parametrize(("family", "values"), CHOICES, ids=str)
def test_every_choice_of_a_pipeline_passes_the_gate(family, values, name, tmp_path):
    """The law, and the comparison of the compiled model with the fitted one.

    The tolerance is that of a real artifact.
    """
    text, contract, frame = rows_of(name)
    if contract.task == "multiclass" and values.get("encoding") == "target":
        return
    x = feature_frame(frame, contract)
    y = encode_target(frame, contract)
    model = build_family(family, values, contract, 0).fit(x, y)
    assert save(tmp_path / "final", model, contract, text, {"threshold": 0.5}, x)[
        "compared_rows"
    ] > len(x)


def test_a_loaded_artifact_keeps_the_law(artifact):
    """Bit for bit where trees add up.

    Within 1e-6 where a matrix product adds in another order for one row than for many.
    """
    predictor, _, records, family = artifact
    faults = rowwise_violations(
        predictor.predict_frame,
        records_frame(records),
        alone=40,
        tolerance=0.0 if family in ("forest", "boosting") else 1e-6,
    )
    assert faults == []


def test_records_and_frames_get_the_same_answers(artifact):
    predictor, _, records, _ = artifact
    assert (
        predictor.predict_records(records).tobytes()
        == predictor.predict_frame(records_frame(records)).tobytes()
    )


def test_the_compiled_model_answers_like_the_fitted_one_on_rows_made_to_hurt(artifact):
    predictor, model, records, _ = artifact
    contract = predictor.contract
    usual = feature_frame(records_frame(records[:120]), contract)
    hurt = edge_case_rows(usual, len(contract.numeric_features))
    k = len(contract.numeric_features)
    native = predict(model, hurt, contract.task)
    compiled = predictor.session.run(
        None,
        {
            "numbers": hurt.iloc[:, :k].to_numpy(np.float32),
            "strings": hurt.iloc[:, k:].to_numpy(object),
        },
    )[-1]
    assert np.isfinite(compiled).all()
    assert np.max(np.abs(native - compiled.reshape(native.shape))) < 1e-5 * max(
        1, np.abs(native).max()
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("table", [plants, houses])
def test_a_column_without_any_value_stops_no_family(table, family):
    """A sensor that came after the first fold.

    There is no value in the rows to fit on, and values in those to predict.
    """
    kind = table(300)
    x = feature_frame(kind.frame, kind.contract)
    y = encode_target(kind.frame, kind.contract)
    before = x.assign(**{x.columns[1]: np.float32(np.nan)})
    fitted = build_family(family, {}, kind.contract, 0).fit(before, y)
    native = predict(fitted, x, kind.contract.task)
    k = len(kind.contract.numeric_features)
    outputs = run_session(
        open_session(compile_model(fitted, kind.contract)),
        x.iloc[:, :k].to_numpy(np.float32),
        x.iloc[:, k:].to_numpy(object),
    )
    assert (
        np.isfinite(native).all() and max_difference(native, outputs, output_scale(native)) < 1e-6
    )
