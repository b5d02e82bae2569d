"""The service over HTTP: the artifact's numbers, and an answer in words to bad input."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import pytest
from conftest import Project
from test_artifact import FRESH

from mle_project.artifact import Predictor
from mle_project.contract import example_record
from mle_project.records import bad_values


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Served:
    "A running `bentoml serve`."

    def __init__(self, url: str, predictor: Predictor) -> None:
        self.url, self.predictor = url, predictor
        self.example = example_record(predictor.contract)

    def post(self, body: object) -> tuple[int, dict]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/predict", data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@contextmanager
def serving(project: Project) -> Iterator[Served]:
    "`bentoml serve` in a project, as long as the block lasts."
    port = free_port()
    with open(project.root / ".mle" / "serve.log", "w") as log:
        process = subprocess.Popen(["bentoml", "serve", "--port", str(port)], cwd=project.root, env=project.env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (project.root / ".mle" / "serve.log").read_text()
            try:
                urllib.request.urlopen(f"{url}/readyz", timeout=1)
                break
            except OSError:
                time.sleep(0.25)
        yield Served(url, Predictor(project.root / "models" / "final"))
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def served(sample):
    with serving(sample) as one:
        yield one


def test_the_example_is_answered(served, sample):
    assert json.loads((sample.root / "models" / "final" / "example.json").read_text()) == {"records": [served.example]}
    status, answer = served.post({"records": [served.example]})
    assert status == 200 and answer["model"] == served.predictor.digest
    assert answer["predictions"] == served.predictor.describe(served.predictor.answer_records([served.example]))


def test_real_rows_get_the_artifacts_numbers(served, sample):
    rows = pd.read_parquet(sample.root / "data" / "tables" / "test.parquet").head(500)
    records = json.loads(rows[served.predictor.contract.features].to_json(orient="records"))
    status, answer = served.post({"records": records})
    assert status == 200 and answer["predictions"] == served.predictor.describe(served.predictor.answer_frame(rows))
    status, alone = served.post({"records": records[:1]})
    assert alone["predictions"] == answer["predictions"][:1]


def test_the_documents_example_works_when_pasted(served):
    with urllib.request.urlopen(f"{served.url}/docs.json", timeout=30) as answer:
        document = json.load(answer)
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    status, answer = served.post(body["example"])
    assert status == 200 and len(answer["predictions"]) == 1
    record = document["components"]["schemas"]["Record"]
    assert set(record["required"]) == set(served.predictor.contract.features) and record["additionalProperties"] is False


def broken_bodies(served) -> dict[str, tuple[object, str]]:
    "Bodies that must be refused, each with a word of the refusal."
    contract, good = served.predictor.contract, served.example
    name = contract.features[0]
    bad = {f"{column.name}: {fault}": ({"records": [good | {column.name: made[0]}]}, column.name)
           for column in map(contract.columns.__getitem__, contract.features) for fault, made in bad_values(column).items()}  # fmt: skip
    return bad | {
        "a field missing": ({"records": [{k: v for k, v in good.items() if k != name}]}, name),
        "an unknown field": ({"records": [good | {"hat": 1}]}, "hat"),
        "an unknown top-level key": ({"records": [good], "extra": 1}, "extra"),
        "no records": ({"records": []}, "records"),
        "not a list": ({"records": good}, "records"),
        "NaN": (json.dumps({"records": [good | {name: float("nan")}]}).encode(), name),
        "infinity": (json.dumps({"records": [good | {name: float("inf")}]}).encode(), name),
    }


def test_bad_input_is_400_and_names_the_field(served):
    for what, (body, word) in broken_bodies(served).items():
        status, answer = served.post(body)
        assert status == 400 and word in json.dumps(answer), f"{what}: {status} {answer}"
    assert served.post(b"{ not json")[0] == 400


def test_without_a_model_it_says_how_to_make_one(changeable):
    for file in (changeable.root / "models" / "final").iterdir():
        file.unlink()
    done = changeable.run("bentoml", "serve", "--port", str(free_port()), check=False, timeout=60)
    assert done.returncode != 0 and "dvc repro" in done.stdout and "Traceback" not in done.stdout


def test_the_bento_lacks_nothing(sample):
    "Its own source, with what its environment lacks made impossible to import, loads the service and its model."
    source = sample.root / "models" / "bento" / "src"
    program = FRESH.split("import json")[0] + "import mle_project.service as s; print(s.__file__, s.PREDICTOR.digest)"
    shown = Project(source).run(sys.executable, "-c", program).stdout
    assert str(source) in shown and Predictor(source / "models" / "final").digest in shown


def test_no_telemetry(sample):
    "Also where nobody set the variable: the environment does."
    assert sample.run(sys.executable, "-c", "import os; print(os.environ['BENTOML_DO_NOT_TRACK'])").stdout.strip() == "True"
    assert sample.run("dvc", "config", "core.analytics").stdout.strip() == "false"


def test_the_bento_serves_the_same_model(sample):
    bento = sample.root / "models" / "bento"
    names = {path.relative_to(bento).as_posix() for path in bento.rglob("*") if path.is_file()}
    assert {"bento.yaml", "src/mle_project/service.py", "src/models/final/model.onnx", "env/python/requirements.txt"} <= names
    assert Predictor(bento / "src" / "models" / "final").digest == Predictor(sample.root / "models" / "final").digest
    locked = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "--hash=sha256:" in locked
    for absent in ("jupyterlab==", "dvc==", "tensorflow", "scikit-learn==", "nbdev=="):
        assert absent not in locked
