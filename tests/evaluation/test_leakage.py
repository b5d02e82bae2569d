"""Leakage: each of the eight checks finds a planted fault, and two canaries show that none is left.

The canaries: nonsense in the test split changes no fitted number, and a rewritten future changes
no row before it.
"""

import copy
import json
import re
import shutil

import ibis
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from IPython.display import display
from projects import example_only
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder
from tables_of_other_kinds import KINDS, houses, plants

from mle_project.artifact.onnx import compile_model
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.contract import ContractError, example_contract, parse_contract, read_contract
from mle_project.core.project import ProjectError, root, stage_params
from mle_project.core.strategies import sample_records
from mle_project.data.drift import bin_shares, population_stability_index, reference_bins
from mle_project.data.engines import register_source
from mle_project.data.point_in_time import lookahead_violations
from mle_project.data.query_record import query_json
from mle_project.data.raw_rows import example_query_record
from mle_project.data.splits import SPLITS, check_splits, cv_splits, split_names
from mle_project.evaluation.leakage import (
    ALLOWED_TEST_READERS,
    check_distribution_shift,
    check_duplicates,
    check_feature_selection,
    check_group_overlap,
    check_illegitimate_features,
    check_preprocessing,
    check_temporal_order,
    check_test_set,
    readers_of_test,
)
from mle_project.features import linear_preprocessor, tree_preprocessor
from mle_project.pipeline.stage_code import stage_code, stage_notebook

ROOT = root()


def visits(rows=600):
    """Rows of the example contract, in the order of time."""
    chance = np.random.default_rng(0)
    frame = pd.DataFrame(sample_records(example_contract(), rows, seed=1, gaps=0.1))
    return frame.assign(
        visit=range(rows),
        day=pd.date_range("2024-01-01", periods=rows),
        back=chance.random(rows) < 0.4,
    )


def split_table(name):
    """The contract and the three splits of a small table: by time, by group, at random."""
    if name == "visits":
        contract = example_contract()
        frame = visits()
        split = {"kind": "time", "validation": "2025-01-01", "test": "2025-05-01"}
    else:
        table = KINDS[name]()
        contract = table.contract
        frame = table.frame
        split = table.split
    names = split_names(frame, contract, split)
    return contract, {part: frame[names == part].reset_index(drop=True) for part in SPLITS}, split


each_table = pytest.mark.parametrize("name", ["visits", "plants", "houses"])


@each_table
def test_no_check_complains_of_an_honest_split(name):
    contract, splits, split = split_table(name)
    check_splits(splits, contract)
    train_and_validation = pd.concat([splits["train"], splits["validation"]], ignore_index=True)
    x = feature_frame(train_and_validation, contract)
    y = encode_target(train_and_validation, contract)
    model = Pipeline([("columns", tree_preprocessor(contract)), ("model", LogisticRegression())])
    model[:-1].fit(x, y)
    folds = cv_splits(splits["train"], contract, 3)
    findings = [
        check_test_set(
            splits,
            {
                stage: stage_code(stage)
                for stage in ("tables", "model_selection", "final_model", "leakage")
            },
        ),
        check_preprocessing(model, x, y, feature_frame(splits["test"], contract), len(x)),
        check_feature_selection(model, {"features": contract.features}, contract),
        check_duplicates(splits, contract, 0.01),
        check_illegitimate_features(splits["train"], contract, 0.995),
        check_temporal_order(splits, contract, folds),
        check_group_overlap(splits, contract, folds, split["kind"]),
        check_distribution_shift(splits, contract, 5.0),
    ]
    assert [one.type for one in findings] == [
        "L1.1",
        "L1.2",
        "L1.3",
        "L1.4",
        "L2",
        "L3.1",
        "L3.2",
        "L3.3",
    ]
    assert not [fault for one in findings for fault in one.violations] and all(
        one.evidence and one.guard for one in findings
    )


# L1.1
def test_a_stage_that_reads_the_test_split_is_found():
    code = {
        path.stem[3:]: stage_code(path.stem[3:])
        for path in sorted((ROOT / "nbs").glob("*.ipynb"))
        if "params = stage_params(" in path.read_text()
    }
    assert set(readers_of_test(code)) <= set(
        ALLOWED_TEST_READERS
    ) and "final_model" in readers_of_test(code)
    for cheat in (
        'x = pd.read_parquet(f"{tables}/test.parquet")',
        'x = [pd.read_parquet(f"{tables}/{part}.parquet") for part in ("train", "test")]',
    ):
        finding = check_test_set(
            {"train": visits(), "test": visits()},
            {**code, "eda": cheat + "\n" + code["model_selection"]},
        )
        assert finding.violations == (
            "the stage `eda` reads the test split; only tables, final_model, leakage may",
        )


def test_a_test_split_without_rows_is_found():
    assert check_test_set({"train": visits(), "test": visits(0)}, {}).violations == (
        "there is no test split, or it has no rows",
    )


# L1.2, L1.3
@each_table
def test_an_operation_fitted_on_the_test_split_is_found(name):
    contract, splits, _ = split_table(name)
    train_and_validation = pd.concat([splits["train"], splits["validation"]])
    x = feature_frame(train_and_validation, contract)
    y = encode_target(train_and_validation, contract)
    all_rows = feature_frame(pd.concat(list(splits.values())), contract)
    leaking_step = linear_preprocessor(contract).fit(all_rows)
    cheating = Pipeline([("columns", leaking_step), ("model", LogisticRegression())])
    finding = check_preprocessing(cheating, x, y, feature_frame(splits["test"], contract), len(x))
    assert finding.violations == (
        "the operation `linear_preprocessor` was fitted on other rows than training and validation",
    )
    assert (
        check_preprocessing(cheating, x, y, x, len(x) + 7)
        .violations[-1]
        .startswith(f"the model was fitted on {len(x) + 7:,} rows")
    )


def test_a_feature_dropped_outside_the_pipeline_is_found():
    contract, splits, _ = split_table("houses")
    x = feature_frame(splits["train"], contract)[["area", "altitude", "garden", "heating"]]
    model = Pipeline([("columns", OrdinalEncoder()), ("model", LogisticRegression())])
    model.fit(x.fillna(0), splits["train"]["garden"])
    assert check_feature_selection(model, {}, contract).violations == (
        "the model does not take `rooms`: it was dropped before the pipeline",
    )


def test_folds_refit_everything_on_their_own_rows():
    """What is fitted in a fold must not change when the rows it is scored on do."""
    import mle_project.candidates  # noqa: F401 - fills the register of families
    from mle_project.modeling.families import build_family

    contract, splits, _ = split_table("visits")
    train = splits["train"]
    for before, after in cv_splits(train, contract, 2):
        other = train.copy()
        other.loc[other.index[after], ["minutes", "items"]] = 599.0
        models = []
        for frame in (train, other):
            x = feature_frame(frame, contract).iloc[before]
            y = encode_target(frame, contract)[before]
            model = build_family("linear", {"transform": "quantile"}, contract, 0).fit(x, y)
            models.append(compile_model(model, contract))
        assert models[0] == models[1]


# L1.4
@each_table
def test_a_row_in_two_splits_is_found(name):
    contract, splits, _ = split_table(name)
    twice = splits | {
        "test": pd.concat([splits["test"], splits["train"].head(20)], ignore_index=True)
    }
    finding = check_duplicates(twice, contract, 0.01)
    assert finding.violations[0] == "20 rows of test have the key of a row of train"
    with pytest.raises(ProjectError, match="is not unique: 40 rows share one"):
        check_splits(twice, contract)
    renamed = twice["test"].assign(
        **{contract.role("id")[0]: [f"new {place}" for place in range(len(twice["test"]))]}
    )
    copies = check_duplicates(splits | {"test": renamed}, contract, 0.01).violations
    assert any("equal a training or validation row in every feature" in fault for fault in copies)


# L2
@each_table
def test_a_feature_that_is_the_answer_is_found(name):
    contract, splits, _ = split_table(name)
    leaking = contract.numeric_features[0]
    train = splits["train"].assign(
        **{leaking: encode_target(splits["train"], contract).astype(float)}
    )
    assert any(
        fault.startswith(f"`{leaking}` alone reaches")
        for fault in check_illegitimate_features(train, contract, 0.99).violations
    )


def test_two_features_that_give_the_target_together_are_found():
    frame = visits()
    chance = np.random.default_rng(1)
    frame["minutes"] = chance.uniform(1, 60, len(frame))
    frame["items"] = chance.integers(1, 40, len(frame))
    honest = check_illegitimate_features(frame, example_contract(), 0.99)
    assert honest.state == "clean", honest
    frame["back"] = frame["minutes"] > 1.5 * frame["items"]
    finding = check_illegitimate_features(frame, example_contract(), 0.99)
    named = " ".join(finding.violations)
    assert "minutes / items" in named or "items / minutes" in named, named
    assert finding.needs_review and "alone do it" in finding.evidence


def test_a_feature_known_after_is_rejected_with_its_line():
    for text, line in ((plants().text, 13), (houses().text, 9)):
        wrong = text.splitlines()
        wrong[line - 1] = wrong[line - 1].replace(
            "available: before_prediction", "available: after_prediction"
        )
        with pytest.raises(
            ContractError,
            match=rf"^contract.yaml:{line}: .* becomes known only after the prediction",
        ):
            parse_contract("\n".join(wrong))


# L3.1
def test_a_random_split_of_rows_with_a_time_is_rejected_and_found():
    contract = example_contract()
    frame = visits()
    split = {"kind": "random", "validation": 0.2, "test": 0.2}
    with pytest.raises(
        ProjectError,
        match="a random split lets the model learn from the future. "
        "Use kind: time, or say allow_random_over_time: true",
    ):
        split_names(frame, contract, split)
    names = split_names(frame, contract, split | {"allow_random_over_time": True})
    splits = {part: frame[names == part] for part in SPLITS}
    assert len(check_temporal_order(splits, contract, []).violations) == 2
    finding = check_temporal_order(splits, contract, [], random_over_time=True)
    assert finding.violations == () and "asked for by name" in finding.evidence


def test_a_fold_that_looks_ahead_is_found():
    contract, splits, _ = split_table("visits")
    half = len(splits["train"]) // 2
    folds = [(np.arange(half, 2 * half), np.arange(half))]
    assert check_temporal_order(splits, contract, folds).violations == (
        "fold 1 is fitted on rows that are not all earlier than the ones it is scored on",
    )


# L3.2
def test_a_group_on_both_sides_is_found():
    contract, splits, split = split_table("plants")
    assert not set(splits["test"]["plant"]) & (
        set(splits["train"]["plant"]) | set(splits["validation"]["plant"])
    )
    for before, after in cv_splits(splits["train"], contract, 3):
        assert not set(splits["train"]["plant"].iloc[before]) & set(
            splits["train"]["plant"].iloc[after]
        )
    mixed = plants().frame
    names = split_names(mixed, contract, {"kind": "random", "validation": 0.2, "test": 0.2})
    finding = check_group_overlap(
        {part: mixed[names == part] for part in SPLITS},
        contract,
        [(np.arange(200), np.arange(200, 400))],
        "random",
    )
    assert (
        "values of `plant` are in the test split and before it" in finding.violations[0]
        and finding.violations[1] == "fold 1 has a `plant` on both sides"
    )


def test_a_random_split_keeps_the_shares_of_the_target():
    for name, table in (("plants", plants()), ("houses", houses())):
        split = {"kind": "random", "validation": 0.2, "test": 0.2, "seed": 3}
        names = split_names(table.frame, table.contract, split)
        y = encode_target(table.frame, table.contract)
        assert (
            abs((names == "test").mean() - 0.2) < 0.01
            and abs((names == "validation").mean() - 0.2) < 0.01
        )
        means = pd.Series(y).groupby(names.to_numpy()).mean()
        assert means.max() - means.min() < 0.05 * y.std(), name


# L3.3
@each_table
def test_a_test_split_of_other_rows_is_named(name):
    contract, splits, _ = split_table(name)
    word = contract.categorical_features[0]
    biased = splits | {
        "test": splits["test"].assign(**{word: contract.columns[word].categories[0]})
    }
    finding = check_distribution_shift(biased, contract, 0.5)
    assert (
        finding.state == "to judge"
        and f"The largest index is {finding.evidence.split()[4]} (`{word}`)" in finding.evidence
    )


@each_table
def test_reference_bins_hold_every_row_once(name):
    contract, splits, _ = split_table(name)
    bins = reference_bins(splits["train"], contract)
    strange = splits["test"].assign(**{contract.numeric_features[0]: np.nan})
    for frame in (splits["train"], strange, splits["test"].head(0)):
        for column, shares in bin_shares(frame, contract, bins).items():
            assert (
                abs(shares.sum() - (len(frame) > 0)) < 1e-9 and len(shares) == len(bins[column]) + 2
            )
    shares = bin_shares(splits["train"], contract, bins)
    assert all(population_stability_index(share, share) == 0 for share in shares.values())
    assert (
        population_stability_index(
            shares[contract.numeric_features[0]],
            bin_shares(strange, contract, bins)[contract.numeric_features[0]],
        )
        > 1
    )


# The canary of the test split.
def nonsense(frame, contract):
    """A test split with absurd features and shuffled labels."""
    frame = frame.copy()
    for name in contract.features:
        kind = contract.columns[name].type
        absurd = {"string": "absurd", "boolean": True}.get(kind, 123456)
        frame[name] = pd.Series(
            [absurd] * len(frame), index=frame.index, dtype=object if kind == "string" else None
        )
    target = contract.target.name
    frame[target] = frame[target].sample(frac=1, random_state=0).to_numpy()
    return frame


def fitted_files(project):
    """The bytes of everything that was selected or fitted, by name."""
    files = ("card.md", "card.html", "metrics.json", "manifest.json")
    names = [
        path for path in sorted((project / "models" / "final").rglob("*")) if path.name not in files
    ]
    names += [
        project / "metrics" / name
        for name in (
            "hyperparameters.json",
            "model_selection.json",
            "trials.jsonl",
            "importance.json",
        )
    ]
    return {
        path.relative_to(project).as_posix(): path.read_bytes() for path in names if path.is_file()
    }


@pytest.mark.slow
def test_nonsense_in_the_test_split_changes_nothing_fitted(changeable):
    """The project's own data, through the real stages: what was tuned or fitted stays the same."""
    before = fitted_files(changeable.root)
    path = changeable.root / "data" / "tables" / "test.parquet"
    scores = json.loads((changeable.root / "metrics" / "final_model.json").read_text())["test"]
    absurd = nonsense(pd.read_parquet(path), read_contract(changeable.root / "contract.yaml"))
    path.unlink()
    absurd.to_parquet(path, index=False)
    for stage in ("model_selection", "importance", "final_model"):
        changeable.run("mle", "run", stage)
    after = fitted_files(changeable.root)
    assert (
        {"models/final/model.onnx", "models/final/native.joblib", "metrics/hyperparameters.json"}
        <= set(before)
        == set(after)
    )
    assert [name for name in before if before[name] != after[name]] == []
    assert (
        json.loads((changeable.root / "metrics" / "final_model.json").read_text())["test"] != scores
    )  # the nonsense was read


def run_here(stage, change=("", "")):
    """Run the working cells of a stage's notebook, in this process and the current folder."""
    cells = [
        cell.source
        for cell in nbformat.read(code_of[stage], as_version=4).cells
        if cell.cell_type == "code"
    ]
    source = "\n".join(cell for cell in cells if re.match(r"#\| (export|hide|eval: false)", cell))
    assert change[0] in source
    exec(compile(source.replace(*change), stage, "exec"), {"__name__": stage, "display": display})


code_of = {
    stage: stage_notebook(stage) for stage in ("model_selection", "importance", "final_model")
}


def run_stages():
    """Choose, explain, fit."""
    for stage in ("model_selection", "importance", "final_model"):
        run_here(stage)


def small_project(folder, name):
    """A project folder with a small table's contract, splits and parameters."""
    contract, splits, split = split_table(name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["importance"] |= {
        "surrogate": {"family": "linear", "max_rows": 300, "overrides": {}},
        "n_bootstrap": 20,
    }
    few = {
        "families": ["prior", "linear", "boosting"],
        "max_trials": {"prior": 1, "linear": 2, "boosting": 1},
        "n_folds": 2,
        "search_rows": None,
    }
    params["model_selection"] |= few
    params["tables"]["split"] = split
    (folder / "data" / "tables").mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "contract.yaml").write_text(KINDS[name]().text)
    (folder / "sql").mkdir()
    added = ", CASE WHEN area > 100 THEN 'large' ELSE heating END AS kind, area / 10 AS tenth"
    select = f"SELECT *{added if name == 'houses' else ''} FROM record"
    (folder / "sql" / "features.sql").write_text(select)
    for part, frame in splits.items():
        frame.to_parquet(folder / "data" / "tables" / f"{part}.parquet", index=False)
    # No query made these tables; the final model only takes its record along.
    record = query_json(example_query_record())
    (folder / "data" / "tables" / "query.json").write_text(record)
    return contract


@pytest.fixture
def quiet_plots(monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    monkeypatch.delenv("MLE_STAGING", raising=False)
    plt.switch_backend("agg")


@pytest.mark.parametrize("name", KINDS)
def test_nor_does_it_on_other_kinds_of_table(name, tmp_path, monkeypatch, quiet_plots):
    contract = small_project(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    run_stages()
    before = fitted_files(tmp_path)
    path = tmp_path / "data" / "tables" / "test.parquet"
    scores = (tmp_path / "metrics" / "final_model.json").read_bytes()
    nonsense(pd.read_parquet(path), contract).to_parquet(path, index=False)
    run_stages()
    assert (
        fitted_files(tmp_path) == before
        and (tmp_path / "metrics" / "final_model.json").read_bytes() != scores
    )


def test_the_canary_dies_when_tuning_reads_the_test_split(tmp_path, monkeypatch, quiet_plots):
    """The planted fault: one line of model_selection takes the test rows as well."""
    contract = small_project(tmp_path, "houses")
    monkeypatch.chdir(tmp_path)
    line = "task = data_contract.task\n"
    test_rows = 'model_features.add(pd.read_parquet(f"{root()}/{tables}/test.parquet"))'
    cheat = (line, f"train = pd.concat([train, {test_rows}], ignore_index=True)\n{line}")
    path = tmp_path / "data" / "tables" / "test.parquet"
    run_here("model_selection", cheat)
    before = (tmp_path / "metrics" / "trials.jsonl").read_bytes()
    nonsense(pd.read_parquet(path), contract).to_parquet(path, index=False)
    run_here("model_selection", cheat)
    assert (tmp_path / "metrics" / "trials.jsonl").read_bytes() != before


# The canary of the future, on the project's own query.
@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The sources in DuckDB, what became known when, and some moments to draw the line at."""
    if not (ROOT / "sql" / "availability.yaml").exists():
        pytest.skip("no sql/availability.yaml: nothing says when the sources' values become known")
    params = stage_params("tables")
    availability = yaml.safe_load((ROOT / "sql" / "availability.yaml").read_text())
    engine = ibis.duckdb.connect(threads=2)
    engine.raw_sql("SET TimeZone = 'UTC'")
    for name, source in params["sources"].items():
        register_source(
            engine,
            f"{name}_all" if name in availability["sources"] else name,
            source,
            tmp_path_factory.getbasetemp(),
        )
    first, spec = next(iter(availability["sources"].items()))
    hours = engine.con.sql(
        f"SELECT DISTINCT ({spec['at']}) AS hour FROM {first}_all ORDER BY hour"
    ).df()["hour"]
    chance = np.random.default_rng(0)
    moments = [
        hours.iloc[place] + pd.Timedelta(minutes=int(chance.integers(0, 60)))
        for place in chance.choice(len(hours), 8, replace=False)
    ]
    return (
        engine,
        (ROOT / params["query"]).read_text(),
        availability,
        sorted(moments),
        read_contract(ROOT / params["contract"]),
    )


def test_no_row_holds_what_was_not_known_when_it_was_asked(sources):
    engine, query, availability, moments, contract = sources
    lookaheads, compared = lookahead_violations(
        engine, query, availability, moments, contract.role("id"), contract.features
    )
    assert lookaheads.empty, lookaheads.to_string()
    assert compared > 8 * 1000
    target_lookaheads, _ = lookahead_violations(
        engine, query, availability, moments, contract.role("id"), [contract.target.name]
    )
    assert len(target_lookaheads) == len(
        moments
    )  # the answers of those rows were rewritten: they were not known


def test_a_row_whose_outcome_is_not_there_yet_has_the_features_it_will_have(sources):
    """What became known later is missing, as in files that were written at that moment."""
    engine, query, availability, moments, contract = sources
    missing = copy.deepcopy(availability)
    for source in missing["sources"].values():
        for event in source["events"]:
            event["replaced_by"] = dict.fromkeys(event["replaced_by"], "NULL")
    lookaheads, compared = lookahead_violations(
        engine, query, missing, moments[:3], contract.role("id"), contract.features
    )
    assert lookaheads.empty, lookaheads.to_string()
    assert compared > 3 * 1000


def outcome_of_its_own(query):
    """A column with the row's own departure delay."""
    return f"""SELECT q.*, (SELECT max(f.dep_delay) FROM flights AS f
      WHERE f.carrier = q.carrier AND f.origin = q.origin AND f.dest = q.dest
        AND make_timestamp(f.year, f.month, f.day, f.hour, f.minute, 0) = q.scheduled_departure
      ) AS planted FROM ({query}) AS q"""


def weather_of_the_departure(query):
    """A column with the weather two hours after the question."""
    return f"""SELECT q.*, (SELECT max(w.temp) FROM weather AS w WHERE w.origin = q.origin
        AND w.time_hour = date_trunc('hour',
          timezone('UTC', timezone('America/New_York', q.scheduled_departure)))
      ) AS planted FROM ({query}) AS q"""


@example_only
@pytest.mark.parametrize("plant", [outcome_of_its_own, weather_of_the_departure])
def test_a_planted_column_that_knows_too_much_is_found(plant, sources):
    engine, query, availability, moments, contract = sources
    lookaheads, _ = lookahead_violations(
        engine,
        plant(query),
        availability,
        moments[:2],
        contract.role("id"),
        [*contract.features, "planted"],
    )
    assert set(lookaheads["column"]) == {"planted"} and lookaheads["rows"].min() > 0


@example_only
def test_a_window_that_peeks_is_found(sources):
    """Every window of the query reaches an hour and a half further."""
    engine, query, availability, moments, contract = sources
    peeking, windows = re.subn(
        r"(RANGE BETWEEN \d+ PRECEDING AND) CURRENT ROW", r"\1 90 FOLLOWING", query
    )
    assert windows > 3
    lookaheads, _ = lookahead_violations(
        engine, peeking, availability, moments[:2], contract.role("id"), contract.features
    )
    assert lookaheads["column"].nunique() > 3


def test_the_project_names_what_became_known_when(sources):
    """Each column of a source with an outcome stands in sql/availability.yaml."""
    engine, _, availability, _, _ = sources
    for name, source in availability["sources"].items():
        columns = set(engine.con.sql(f"DESCRIBE {name}_all").df()["column_name"])
        assert {column for event in source["events"] for column in event["replaced_by"]} <= columns
