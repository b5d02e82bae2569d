"""The service over HTTP: everywhere the artifact's numbers.

Also what it is made of, and BentoML as it may change.
"""

import fnmatch
import json
import random
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import yaml
from fresh_process import FRESH
from hypothesis import given, settings
from projects import ROOT, Project
from pydantic_core import from_json
from servers import JSON, free_port, serving, start_server

from mle_project.artifact.export import write_manifest
from mle_project.artifact.parity import TOLERANCE, max_difference, output_scale
from mle_project.artifact.predictor import Predictor
from mle_project.core.arrays import feature_frame, records_to_arrays
from mle_project.core.request_model import example_record, request_model
from mle_project.core.strategies import invalid_records, sample_records, valid_records
from mle_project.core.validation import records_frame
from mle_project.modeling.metrics import predict
from mle_project.serving.validation import BatchValidator, validate_batch


@pytest.fixture(scope="module")
def server(sample):
    with serving(sample) as one:
        yield one


@pytest.fixture(scope="module")
def records(sample, server) -> list[dict]:
    "Real records, and made ones: missing values, unseen and rare words, extremes."
    contract = server.predictor.contract
    rows = pd.read_parquet(sample.root / "data" / "tables" / "test.parquet").head(1500)
    real = json.loads(rows[contract.features].to_json(orient="records"))
    generated_records = sample_records(contract, 1500, seed=3, gaps=0.3)
    unusual_records: list[dict] = []

    @settings(max_examples=300, database=None, derandomize=True, deadline=None)
    @given(valid_records(contract))
    def collect(record):
        unusual_records.append(record)

    collect()
    return real + generated_records + unusual_records


def test_the_example_is_answered(server, sample):
    assert json.loads((sample.root / "models" / "final" / "example.json").read_text()) == {
        "records": [server.example]
    }
    status, answer = server.post({"records": [server.example]})
    assert status == 200 and answer["model"] == server.predictor.digest
    assert answer["predictions"] == server.predictor.format_predictions(
        server.predictor.predict_records([server.example])
    )


def test_five_places_give_the_same_numbers(server, sample, records, tmp_path):
    """The notebook's model, the artifact in a fresh process, `mle score`, and the service.

    The service is asked for a record at a time, for some, and for thousands.
    """
    predictor = server.predictor
    task = predictor.contract.task
    expected = predictor.predict_records(records)
    (tmp_path / "records.json").write_text(json.dumps(records))
    output = json.loads(
        sample.run(sys.executable, "-c", FRESH, str(tmp_path / "records.json")).stdout
    )
    assert output["digest"] == predictor.digest and output["predictions"] == expected.tolist()

    frame = records_frame(records)[predictor.contract.features]
    native = predict(
        joblib.load(predictor.folder / "native.joblib"),
        feature_frame(frame, predictor.contract),
        task,
    )
    assert max_difference(native, expected, output_scale(native)) <= TOLERANCE[task]

    status, answer = server.post({"records": records})
    assert status == 200 and answer["model"] == predictor.digest
    assert answer["predictions"] == predictor.format_predictions(expected)
    chance = random.Random(0)
    for count in (1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 24, 129, 600):
        at = chance.randrange(len(records) - count)
        assert (
            server.post({"records": records[at : at + count]})[1]["predictions"]
            == answer["predictions"][at : at + count]
        )


def test_scoring_a_file_gives_the_services_numbers(server, sample, tmp_path):
    contract = server.predictor.contract
    rows = pd.read_parquet(sample.root / "data" / "tables" / "test.parquet").head(700)
    rows[contract.features].to_parquet(tmp_path / "in.parquet")
    sample.run("mle", "score", str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"))
    scored = pd.read_parquet(tmp_path / "out.parquet")
    records = json.loads(rows[contract.features].to_json(orient="records", double_precision=15))
    predictions = server.post({"records": records})[1]["predictions"]
    name = "value" if contract.task == "regression" else "probability"
    assert scored[name].tolist() == [one[name] for one in predictions]


def test_requests_that_meet_get_their_own_answers(server, records):
    "Many callers at once, whose records go through the model together."
    from concurrent.futures import ThreadPoolExecutor

    expected = server.predictor.format_predictions(server.predictor.predict_records(records))
    parts = [(at, 1 + at % 7) for at in range(0, 1400, 5)]
    with ThreadPoolExecutor(24) as pool:
        responses = list(
            pool.map(
                lambda part: server.post({"records": records[part[0] : sum(part)]})[1][
                    "predictions"
                ],
                parts,
            )
        )
    assert responses == [expected[at : at + count] for at, count in parts]


def test_the_quick_check_and_pydantic_agree(sample):
    """What the quick check lets in, pydantic lets in, with the same input for the model.

    What breaks a rule, neither lets in.
    """
    contract = Predictor(sample.root / "models" / "final").contract
    rules = BatchValidator(contract)
    record_type = request_model(contract)

    @settings(max_examples=300, database=None, derandomize=True, deadline=None)
    @given(valid_records(contract))
    def good(record):
        record_type.model_validate(record)
        batch = validate_batch(rules, [record])
        numbers, strings = records_to_arrays([record], contract)
        if batch:  # whole numbers beyond 2**53 are left to pydantic
            np.testing.assert_array_equal(batch.numbers, numbers)
            assert batch.strings.tolist() == strings.tolist()
        elif all(abs(value) <= 2**53 for value in record.values() if isinstance(value, int)):
            raise AssertionError(f"rejected: {record}")

    @settings(max_examples=600, database=None, derandomize=True, deadline=None)
    @given(invalid_records(contract))
    def bad(case):
        with pytest.raises(ValueError):
            record_type.model_validate(case[0])
        try:
            body_record = from_json(json.dumps(case[0]).encode(), allow_inf_nan=False)
        except (
            ValueError
        ):  # JSON has neither NaN nor half a surrogate pair: such a body is rejected before
            return
        assert (
            validate_batch(rules, [body_record]) is None
            and validate_batch(rules, [example_record(contract), body_record]) is None
        )

    good()
    bad()


def test_the_documents_example_works_when_pasted(server):
    document = json.loads(server.ask("GET", "/docs.json")[2])
    assert document["openapi"] == "3.1.0"
    status, answer = server.post(document["components"]["schemas"]["Request"]["example"])
    assert status == 200 and len(answer["predictions"]) == 1
    record = document["components"]["schemas"]["Record"]
    assert (
        set(record["required"]) == set(server.predictor.contract.features)
        and record["additionalProperties"] is False
    )


def test_without_a_model_it_says_how_to_make_one(changeable):
    for file in (changeable.root / "models" / "final").iterdir():
        file.unlink()
    process = changeable.run(
        "bentoml", "serve", "--port", str(free_port()), check=False, timeout=60
    )
    assert (
        process.returncode != 0
        and "dvc repro" in process.stdout
        and "Traceback" not in process.stdout
    )


def test_what_the_service_imports_is_packed(sample):
    "bentofile.yaml and dvc.yaml name exactly the modules that the service loads."
    loaded = (
        "{m.__file__ for name, m in sys.modules.items() if name.split('.')[0] == 'mle_project'}"
    )
    program = f"import sys, mle_project.serving.service; print(*{loaded})"
    paths = sample.run(sys.executable, "-c", program).stdout.splitlines()[-1].split()
    files = {Path(file).relative_to(sample.root.resolve()).as_posix() for file in paths}
    packed = [
        name
        for name in yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]
        if name.startswith("mle_project/")
    ]
    watched = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["bento"]["deps"]
    assert files == set().union(*(matches(name, files) for name in packed)) and all(
        matches(name, files) for name in packed
    )
    assert files == set().union(*(matches(name, files) for name in watched))


def matches(name: str, files: set[str]) -> set[str]:
    "Those of the files that a line means: a file, a folder with all in it, or a pattern."
    folder = name.removesuffix("**").rstrip("/") + "/"
    return {file for file in files if fnmatch.fnmatchcase(file, name) or file.startswith(folder)}


def test_the_bento_lacks_nothing(sample):
    """Its own source loads the service, its model and its pages.

    What its environment lacks is made impossible to import.
    """
    source = sample.root / "models" / "bento" / "src"
    program = (
        FRESH.split("import json")[0]
        + "import mle_project.serving.service as s; "
        + "print(s.__file__, s.PREDICTOR.digest, s.app_state().ready)"
    )
    output = Project(source).run(sys.executable, "-c", program).stdout
    assert str(source) in output and Predictor(source / "models" / "final").digest in output


def test_no_telemetry(sample):
    "Also where nobody set the variable: the environment does."
    assert (
        sample.run(
            sys.executable, "-c", "import os; print(os.environ['BENTOML_DO_NOT_TRACK'])"
        ).stdout.strip()
        == "True"
    )
    assert sample.run("dvc", "config", "core.analytics").stdout.strip() == "false"


def test_the_bento_serves_the_same_model(sample):
    bento = sample.root / "models" / "bento"
    names = {path.relative_to(bento).as_posix() for path in bento.rglob("*") if path.is_file()}
    assert {
        "bento.yaml",
        "src/mle_project/serving/service.py",
        "src/models/final/model.onnx",
        "env/python/requirements.txt",
    } <= names
    assert (
        Predictor(bento / "src" / "models" / "final").digest
        == Predictor(sample.root / "models" / "final").digest
    )
    requirements = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "--hash=sha256:" in requirements
    for absent in ("jupyterlab==", "dvc==", "tensorflow", "scikit-learn==", "nbdev=="):
        assert absent not in requirements


def test_a_model_is_never_changed_under_way(changeable, tmp_path):
    """A folder that is replaced while the service runs changes nothing.

    One that is half written, or not the one that was asked for, is rejected.
    """
    folder = changeable.root / "models" / "final"
    with serving(changeable) as server:
        digest = server.predictor.digest
        response = server.post({"records": [server.example]})
        (folder / "card.md").write_text("# Another card\n")
        assert server.post({"records": [server.example]}) == response
        assert (
            "models/final: card.md differ"
            in changeable.run("bentoml", "serve", check=False, timeout=60).stdout
        )
        assert write_manifest(folder) != digest
        assert server.post({"records": [server.example]}) == response
    project = Project(changeable.root)
    process, _ = start_server(project, MLE_SERVICE_MODEL_DIGEST=digest)
    assert process.wait(60) != 0
    log = (project.root / ".mle" / "serve.log").read_text()
    assert f"MLE_SERVICE_MODEL_DIGEST allows only {digest}" in log and "Traceback" not in log


HIDDEN = """
import bentoml
_true = bentoml.service
def service(inner=None, /, *, name=None, {argument}**config):
    config.pop("service_class", None)
    return _true(inner, name=name, **config) if inner else _true(name=name, **config)
bentoml.service = service
"""


@pytest.mark.parametrize("how", ["gone", "unused", "chosen"])
def test_another_bentoml_changes_nothing(sample, tmp_path, how):
    """The undocumented argument is gone, or is not used any more.

    Or tracing asks for the documented way: slower, and the same.
    """
    (tmp_path / "sitecustomize.py").write_text(
        HIDDEN.format(argument="" if how == "gone" else "service_class=None, ")
    )
    environment = (
        {"MLE_SERVICE_TRACING": "on"}
        if how == "chosen"
        else {"PYTHONPATH": f"{tmp_path}:{sample.root}"}
    )
    with serving(sample, **environment, MLE_SERVICE_MAX_BODY_BYTES="5000") as server:
        status, headers, content = server.ask(
            "POST",
            "/predict",
            json.dumps({"records": [server.example]}),
            JSON | {"x-request-id": "mine"},
        )
        assert status == 200 and headers["x-request-id"] == "mine"
        assert json.loads(content)["predictions"] == server.predictor.format_predictions(
            server.predictor.predict_records([server.example])
        )
        for body, code, kind in (
            ({"records": []}, 422, "validation_error"),
            (b"{", 400, "invalid_json"),
            (b" " * 6000, 413, "content_too_large"),
        ):
            status, answer = server.post(body)
            assert status == code and answer["error"]["code"] == kind
        assert (
            server.ask("GET", "/")[1]["content-security-policy"]
            and server.ask("GET", "/readyz")[0] == 200
        )
        assert server.ask("GET", "/nothing")[0] == 404 and server.ask("PUT", "/predict")[0] == 405
        counts = server.counts()
        assert counts['mle_service_requests_total{route="/predict",status="200"}'] == 1
        within = any(
            name.startswith("bentoml_service_request_total")
            and 'endpoint="/predict"' in name
            and value
            for name, value in counts.items()
        )
        assert within  # BentoML's own layers have seen it: this was the slower way
        assert [line["id"] for line in server.lines()][0] == "mine"


def test_the_front_stands_before_bentomls_layers(server):
    "With the BentoML of the lock file, requests for predictions never reach them."

    def behind() -> (
        float
    ):  # what the tests above had answered behind the front is counted in the same folder
        return sum(
            value
            for name, value in server.counts().items()
            if name.startswith("bentoml_service_request_total") and "/predict" in name
        )

    before = behind()
    assert server.post({"records": [server.example]})[0] == 200
    assert behind() == before
