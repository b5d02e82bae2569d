"""Three unrelated tables, one for each kind of task: from `mle adopt` to a served prediction.

No file is edited by hand.
"""

import csv
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from projects import PARAMS, QUICK, Project, copy_project, stages_run
from servers import serving
from sklearn import datasets

from mle_project.artifact.predictor import Predictor
from mle_project.core.request_model import example_record


def tumours() -> tuple[pd.DataFrame, list[str]]:
    "Two classes in words, nine rows without one, thirty numbers, an identifier; decimal commas."
    dataset = datasets.load_breast_cancer(as_frame=True)
    frame = (
        dataset.data.round(4)
        .astype(str)
        .apply(lambda column: column.str.replace(".", ",", regex=False))
    )
    frame.insert(0, "Patient-ID", [f"P{number:05d}" for number in range(len(frame))])
    words = dataset.target.map({0: "malignant", 1: "benign"})
    return frame.assign(Diagnose=words.where(frame.index % 64 != 7, "")), [
        "--target",
        "Diagnose",
    ]


def wines() -> tuple[pd.DataFrame, list[str]]:
    "Three classes as words, fewer than two hundred rows, bottles that belong together."
    dataset = datasets.load_wine(as_frame=True)
    frame = dataset.data.assign(
        cultivar=dataset.target.map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})
    )
    return frame.assign(cellar=np.arange(len(frame)) // 2), [
        "--target",
        "cultivar",
        "--group",
        "cellar",
    ]


def bikes() -> tuple[pd.DataFrame, list[str]]:
    "Values to predict, day after day, with gaps, words for yes and no, and accents in the names."
    chance = np.random.default_rng(0)
    rows = 1500
    days = pd.date_range("2022-01-01", periods=rows, freq="12h")
    warm = 12 + 10 * np.sin(2 * np.pi * (days.dayofyear - 100) / 365) + chance.normal(0, 3, rows)
    rain = chance.random(rows) < 0.3
    hires = np.maximum(
        0, 900 + 60 * warm - 500 * rain - 150 * (days.weekday >= 5) + chance.normal(0, 120, rows)
    ).round()
    temperature = np.where(chance.random(rows) < 0.1, np.nan, warm.round(1))
    frame = pd.DataFrame(
        {"Zeitpunkt": days.strftime("%d.%m.%Y %H:%M"), "Température (°C)": temperature}
    )
    frame = frame.assign(
        Regen=np.where(rain, "ja", "nein"), Station=chance.choice(["Süd", "Nord", "Ost"], rows)
    )
    return frame.assign(**{"hired bikes": [f"{value:,.0f}" for value in hires]}), [
        "--target",
        "hired bikes",
        "--time",
        "Zeitpunkt",
    ]


def keep_back(frame: pd.DataFrame, options: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    "A table, and rows that nobody has seen: every twentieth, or the last where there is a time."
    chosen = np.arange(len(frame)) % 20 == 10
    if "--time" in options:
        chosen = np.arange(len(frame)) >= len(frame) - len(frame) // 20
    return frame[~chosen], frame[chosen].drop(columns=options[1])


TABLES = {
    "tumours": (tumours, "binary", {"sep": ";"}),
    "wines": (wines, "multiclass", {}),
    "bikes": (bikes, "regression", {"encoding": "latin-1"}),
}


@pytest.fixture(scope="module", params=TABLES)
def adopted_project(request, tmp_path_factory) -> tuple[Project, str, str]:
    make, task, form = TABLES[request.param]
    project = copy_project(tmp_path_factory.mktemp(request.param))
    frame, options = make()
    file = project.root.parent / f"{project.root.name}-{request.param}.csv"
    known, new = keep_back(frame, options)
    known.to_csv(file, index=False, **form)
    new.to_csv(project.root.parent / "new.csv", index=False, **form)
    shutil.copy2(file, project.root.parent / "known.csv")
    output = project.run("mle", "adopt", str(file), *options, "--name", request.param).stdout
    if request.param != "wines":  # a search without the network leaves nothing to export
        project.params(
            model_selection__families=[
                name for name in PARAMS["model_selection"]["families"] if name != "network"
            ]
        )
    # the tests' time, not the table's need
    project.params(
        model_selection__max_trials={
            "prior": 1,
            "linear": 2,
            "forest": 1,
            "boosting": 2,
            "network": 1,
        }
    )
    project.params(importance__surrogate=QUICK)
    project.run("dvc", "repro")
    return project, task, output


def test_from_a_file_to_a_served_prediction(adopted_project):
    project, task, output = adopted_project
    assert task in output
    metrics = json.loads((project.root / "metrics" / "final_model.json").read_text())
    name = next(iter(metrics["test"]))
    better = metrics["test"][name] - metrics["baselines"]["prior"]["test"][name]
    assert metrics["task"] == task and (better < 0 if task == "regression" else better > 0)
    rows = pd.read_parquet(project.root / "data" / "tables" / "test.parquet").head(60)
    with serving(project) as server:
        records = json.loads(rows[server.predictor.contract.features].to_json(orient="records"))
        status, answer = server.post({"records": records})
        digest = json.loads((project.root / "metrics" / "model.json").read_text())["model"]
        assert status == 200 and answer["model"] == digest
        assert answer["predictions"] == server.predictor.format_predictions(
            server.predictor.predict_frame(rows)
        )
        assert server.post({"records": [example_record(server.predictor.contract)]})[0] == 200
    keys = {
        "binary": {"label", "probability"},
        "multiclass": {"label", "probability", "probabilities"},
        "regression": {"value", "low", "high"},
    }
    assert set(answer["predictions"][0]) == keys[task]


def test_nothing_is_left_to_do_and_everything_shows_its_pictures(adopted_project):
    project, _, _ = adopted_project
    assert (
        stages_run(project.run("dvc", "repro").stdout) == []
        and "up to date" in project.run("dvc", "status").stdout
    )
    page = project.run("dvc", "plots", "show", "--out", ".mle/plots").stdout
    assert "index.html" in page and "failed" not in page
    about = json.loads((project.root / "models" / "keras" / "about.json").read_text())
    assert about["exported"] or "`network` was not tuned" in about["why"]
    card = (project.root / "models" / "final" / "card.md").read_text()
    assert Predictor(project.root / "models" / "final").contract.target.name in card


def test_rows_without_a_target_are_set_apart_and_can_be_scored(adopted_project):
    project, task, output = adopted_project
    unlabeled = pd.read_parquet(project.root / "data" / "tables" / "unlabeled.parquet")
    counts = json.loads((project.root / "metrics" / "tables.json").read_text())
    kept_back = range(10, 569, 20)
    numbers = [number for number in range(7, 569, 64) if number not in kept_back]
    expected = [f"P{number:05d}" for number in numbers] if task == "binary" else []
    key = unlabeled["patient_id"].tolist() if expected else unlabeled.index.tolist()
    assert key == expected and counts["unlabeled"]["rows"] == len(expected)
    said = f"{len(expected)} of {569 - len(kept_back)} rows have no diagnose"
    assert (said in output) == bool(expected)
    command = ["mle", "score", "data/tables/unlabeled.parquet", ".mle/unlabeled.parquet"]
    process = project.run(*command, check=bool(expected))
    if expected:
        assert len(pd.read_parquet(project.root / ".mle" / "unlabeled.parquet")) == len(expected)
    else:
        assert process.returncode and "unlabeled.parquet has no rows" in process.stdout


def test_the_readme_speaks_of_the_new_table(adopted_project):
    project, _, _ = adopted_project
    text = (project.root / "README.md").read_text()
    part = re.search(r"<!-- table -->(.*)<!-- /table -->", text, flags=re.DOTALL).group(1)
    contract = Predictor(project.root / "models" / "final").contract
    assert contract.features[0] in part and "flight" not in part


def test_a_file_of_new_rows_is_scored_as_the_service_would(adopted_project):
    project, task, _ = adopted_project
    project.run("mle", "score", "data/tables/test.parquet", ".mle/answers.parquet")
    answers = pd.read_parquet(project.root / ".mle" / "answers.parquet")
    predictor = Predictor(project.root / "models" / "final")
    outputs = predictor.predict_frame(
        pd.read_parquet(project.root / "data" / "tables" / "test.parquet")
    )
    column = "value" if task == "regression" else "probability"
    expected = {
        "binary": lambda: outputs[:, 1],
        "multiclass": lambda: outputs.max(axis=1),
        "regression": lambda: outputs,
    }
    np.testing.assert_array_equal(answers[column], expected[task]())


def score_raw(project: Project, name: str) -> pd.DataFrame:
    "The predictions of `mle score` for a file beside the project, as it came."
    process = project.run("mle", "score", str(project.root.parent / name), ".mle/raw.parquet")
    assert f"{name} is read in the form of the source" in process.stdout
    return pd.read_parquet(project.root / ".mle" / "raw.parquet")


def test_raw_rows_of_the_test_split_are_predicted_as_its_records(adopted_project):
    project, task, _ = adopted_project
    predictor = Predictor(project.root / "models" / "final")
    raw = score_raw(project, "known.csv")
    project.run("mle", "score", "data/tables/test.parquet", ".mle/answers.parquet")
    answers = pd.read_parquet(project.root / ".mle" / "answers.parquet")
    column = "value" if task == "regression" else "probability"
    keys = [name for name in (*predictor.contract.role("id"), predictor.contract.time) if name]
    if not keys:  # nothing tells the rows apart: every prediction is there
        assert set(answers[column]) <= set(raw[column])
        return
    both = answers.merge(raw, on=keys, how="left", suffixes=("", "_raw"))
    assert len(both) == len(answers)
    np.testing.assert_array_equal(both[column], both[f"{column}_raw"])


def test_new_rows_of_the_file_get_the_same_predictions_in_batch_and_over_http(adopted_project):
    project, task, _ = adopted_project
    raw = score_raw(project, "new.csv")
    predictor = Predictor(project.root / "models" / "final")
    source = predictor.query["sources"][predictor.query["driving_source"]]
    encoding = source["encoding"] or "utf-8"
    with open(project.root.parent / "new.csv", encoding=encoding, newline="") as file:
        rows = [*csv.DictReader(file, delimiter=source["delimiter"])]
    assert len(rows) == len(raw) > 5
    with serving(project) as server:
        status, answer = server.post({"rows": rows})
        assert status == 200, answer
        column = "value" if task == "regression" else "probability"
        assert [one[column] for one in answer["predictions"]] == raw[column].tolist()
        example = (project.root / "models" / "final" / "example_rows.json").read_bytes()
        assert server.post(example)[0] == 200
        document = json.loads(server.ask("GET", "/docs.json")[2])
        row = document["components"]["schemas"]["Row"]
        assert {*row["required"]} <= {*rows[0]} <= {*row["properties"]}
        assert b'"list": "rows"' in server.ask("GET", "/")[2]
        hostile_rows(server, rows)


def hostile_rows(server, rows: list[dict]) -> None:
    "Hundreds of odd values: each a prediction, or an error that names its column and no value."
    chance = np.random.default_rng(0)
    odd = ["", " ", "NaN", "1e999", "'; DROP TABLE x; --", "\u0000", "\ud800", "9" * 400, "0x1F"]
    odd += [None, True, [], {}, [1, [2]], {"a": {"b": 1}}, 10**30, -0.0, 1.5e-320, "a" * 5000]
    names = list(rows[0])
    for _ in range(500):
        row = dict(rows[int(chance.integers(len(rows)))])
        name = names[int(chance.integers(len(names)))]
        value = odd[int(chance.integers(len(odd)))]
        row[name] = value
        status, answer = server.post({"rows": [row, rows[0]]})
        assert status in (200, 400, 422), (name, value, answer)
        if status == 422:
            details = answer["error"]["details"]
            assert all(name in one["field"] for one in details), (name, value, details)
            assert not isinstance(value, str) or len(value) < 9 or value not in str(details)
    assert server.post({"rows": rows[:1]})[0] == 200
    for body in ({"rows": []}, {"rows": {}}, {"rows": [1]}, {"rows": rows, "records": []}):
        assert server.post(body)[0] == 422
    assert not [line for line in server.lines() if line["status"] >= 500]
