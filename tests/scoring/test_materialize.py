"""Features by key: with the sources cut at a moment, they are those of the training tables."""

import json
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from projects import PARAMS, ROOT, example_only
from servers import serving

from mle_project.artifact.feature_store import FeatureStore, contract_digest
from mle_project.artifact.predictor import Predictor
from mle_project.core.contract import EXAMPLE, parse_contract
from mle_project.core.project import ProjectError
from mle_project.data.engines import open_engine, register_source
from mle_project.scoring.materialize import materialize, unlabeled_rows

AHEAD = pd.Timedelta("3h")
MOMENTS = 20


@pytest.fixture(scope="module")
def availability() -> dict:
    path = (ROOT / PARAMS["tables"]["query"]).with_name("availability.yaml")
    if not path.is_file():
        pytest.skip("this project does not say when its sources became known")
    return yaml.safe_load(path.read_text())


class History:
    "All sources in one engine, what the query makes of them, and copies cut at a moment."

    def __init__(self, folder: Path, engine, availability: dict) -> None:
        self.folder = folder
        self.engine = engine
        self.availability = availability
        for name, source in PARAMS["tables"]["sources"].items():
            register_source(engine, name, source, folder)
        query = (ROOT / PARAMS["tables"]["query"]).read_text().strip().rstrip(";")
        asked = availability["prediction_time"]
        engine.raw_sql(f"CREATE TABLE every_row AS SELECT *, ({asked}) AS asked FROM ({query})")

    def cut(self, moment: pd.Timestamp) -> dict[str, dict]:
        "Sources that hold nothing that became known after a moment."
        place = Path(tempfile.mkdtemp(dir=self.folder))
        sources = {}
        for name in PARAMS["tables"]["sources"]:
            replaced = []
            for event in self.availability["sources"].get(name, {"events": []})["events"]:
                later = f"COALESCE(({event['available_at']}) > TIMESTAMP '{moment}', TRUE)"
                replaced += [
                    f"CASE WHEN {later} THEN NULL ELSE {column} END AS {column}"
                    for column in event["replaced_by"]
                ]
            select = f"* REPLACE ({', '.join(replaced)})" if replaced else "*"
            file = place / f"{name}.parquet"
            self.engine.raw_sql(f"COPY (SELECT {select} FROM {name} AS source) TO '{file}'")
            sources[name] = {"path": str(file)}
        return sources

    def asked_before(self, moment: pd.Timestamp, key: str) -> pd.DataFrame:
        "The rows of the query that were asked in the hours before a moment, by key."
        rows = self.engine.con.execute(
            f"SELECT * FROM every_row WHERE asked BETWEEN '{moment - AHEAD}' AND '{moment}'"
        ).to_arrow_table()
        return rows.to_pandas().set_index(key)


@pytest.fixture(scope="module")
def history(tmp_path_factory, availability):
    folder = tmp_path_factory.mktemp("history")
    with open_engine("duckdb", 2, folder) as engine:
        yield History(folder, engine, availability)


def moments() -> list[pd.Timestamp]:
    "Moments in the test period, at all hours."
    chance = np.random.default_rng(0)
    first = pd.Timestamp(PARAMS["tables"]["split"]["test"])
    hours = chance.integers(0, 24 * 55, MOMENTS)
    return [first + pd.Timedelta(hours=int(hour), minutes=7) for hour in hours]


@example_only
def test_features_as_of_a_moment_are_those_of_training(sample, history, availability, tmp_path):
    predictor = Predictor(sample.root / "models" / "final")
    (key,) = predictor.contract.role("id")
    compared = 0
    for number, moment in enumerate(moments()):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = unlabeled_rows(
            history.cut(moment), predictor, availability, (moment - AHEAD, moment), folder
        )
        now = made.to_pandas(ignore_metadata=True).set_index(key)
        then = history.asked_before(moment, key)
        assert set(now.index) <= set(then.index)
        then = then.loc[now.index]
        compared += len(now)
        for name in predictor.contract.features:
            same = (now[name] == then[name]) | (now[name].isna() & then[name].isna())
            assert same.all(), (str(moment), name, now[name][~same], then[name][~same])
    assert compared >= 1000


@example_only
def test_a_key_gives_what_its_record_gives(sample, history, availability, tmp_path):
    predictor = Predictor(sample.root / "models" / "final")
    moment = pd.Timestamp(PARAMS["tables"]["split"]["test"]) + pd.Timedelta("16h")
    file = tmp_path / "features.sqlite"
    sources = history.cut(moment)
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        result = materialize(file, predictor, sources, availability, moment, AHEAD, folder)
    assert result["keys"] > 100 and not result["invalid"]
    store = FeatureStore(file, contract_digest(predictor.folder))
    with sqlite3.connect(file) as connection:
        keys = [key for (key,) in connection.execute("SELECT key FROM features")]
    stored = store.lookup(keys)
    records = [one.record for one in stored]
    expected = predictor.format_predictions(predictor.predict_records(records))
    assert [one.prediction for one in stored] == expected
    assert max(one.as_of for one in stored) == moment.isoformat()
    with serving(sample, MLE_SERVICE_FEATURE_STORE=str(file)) as server:
        by_key = server.post({"keys": keys[:50]})
        assert by_key[0] == 200
        assert by_key[1]["predictions"] == expected[:50]
        assert by_key[1]["features"] == [
            {"key": one.key, "as_of": one.as_of} for one in stored[:50]
        ]
        status, _, content = server.ask(
            "POST", "/explain", json.dumps({"keys": keys[:1]}), {"content-type": "application/json"}
        )
        answer = json.loads(content)
        assert status == 200 and answer["attributions"] and answer["records"] == records[:1]
        status, answer = server.post({"keys": [keys[0], "no such flight"]})
        assert status == 404 and answer["error"]["details"][0]["field"] == "keys.1"
        for keys_of_no_kind in ([1.5], [None], [{}], [[keys[0], keys[1]]], "x", []):
            assert server.post({"keys": keys_of_no_kind})[0] == 422
        assert server.post({"keys": keys[:1], "records": records[:1]})[0] == 422
        old = file.read_bytes()
        file.write_bytes(b"no database")
        assert server.post({"keys": keys[:1]})[0] == 503
        file.write_bytes(old)
        assert server.post({"keys": keys[:1]})[0] == 200
    with serving(
        sample, MLE_SERVICE_FEATURE_STORE=str(file), MLE_SERVICE_FEATURE_MAX_AGE="60"
    ) as server:
        status, answer = server.post({"keys": keys[:1]})
        assert status == 503 and "may be 60 seconds old" in answer["error"]["message"]
    with serving(sample) as server:
        status, answer = server.post({"keys": keys[:1]})
        assert status == 422 and "MLE_SERVICE_FEATURE_STORE" in answer["error"]["message"]


def test_a_contract_without_a_key_is_told_so(models, tmp_path):
    predictor = Predictor(models("visits", "linear"))
    predictor.contract = parse_contract(EXAMPLE.replace("role: id", "role: ignored"))
    assert predictor.contract.role("id") == []
    moment = pd.Timestamp("2024-01-01")
    with pytest.raises(ProjectError, match="no column of the role id"):
        materialize(tmp_path / "x.sqlite", predictor, {}, {}, moment, AHEAD, tmp_path)
    assert not (tmp_path / "x.sqlite").exists()


def test_the_command_says_what_it_did(sample):
    output = sample.run("mle", "materialize", "--at", "2013-07-01T15:00", "--ahead", "6h").stdout
    assert "keys as of 2013-07-01 15:00:00 UTC" in output or "role id" in output
    for words, fault in {("--ahead", "soon"): "--ahead soon", ("--at", "x"): "--at x"}.items():
        process = sample.run("mle", "materialize", *words, check=False)
        assert process.returncode and fault in process.stdout
