"""Nothing that a caller sends breaks the service: every refusal has its status and the one form, and no value reaches the log."""

import hashlib
import json
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT
from test_service import JSON, Served, serving, started

from mle_project.core.strategies import invalid_values, sample_records
from mle_project.serving.errors import CODES
from mle_project.serving.settings import START, Settings, variable_name, with_settings
from mle_project.serving.validation import MOST_FAULTS

SECRET = "a value that nobody may see 4711"
LIMITS = {
    "MLE_SERVICE_MAX_RECORDS": "400",
    "MLE_SERVICE_MAX_BODY_BYTES": "3000000",
    "MLE_SERVICE_READ_TIMEOUT": "1.5",
}


@pytest.fixture(scope="module")
def served(sample):
    with serving(sample, **LIMITS) as one:
        yield one


def refused(served: Served, status: int, body: object, headers: dict | None = None, path: str = "/predict", method: str = "POST") -> dict:
    "The error of one answer, whose status and form are looked at."
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    found, said_headers, said = served.ask(method, path, data, JSON if headers is None else headers)
    assert found == status, (found, said[:300])
    error = json.loads(said)["error"]
    assert set(error) == {"code", "message", "request_id", "details"} and error["code"] == CODES[status] and error["message"]
    assert said_headers["x-request-id"] == error["request_id"] and said_headers["content-type"] == "application/json"
    assert all(set(detail) == {"field", "rule", "message"} and all(detail.values()) for detail in error["details"])
    assert len(error["details"]) <= MOST_FAULTS and b"Traceback" not in said
    return error


def test_every_rule_of_the_contract_is_named(served):
    contract, good = served.predictor.contract, served.example
    name = contract.features[0]
    for column in map(contract.columns.__getitem__, contract.features):
        for made in invalid_values(column).values():
            for value in made:
                body = json.dumps({"records": [good, good | {column.name: value}]}).encode()
                whole = value != "\ud800" and not (isinstance(value, float) and not math.isfinite(value))  # those are not JSON
                error = refused(served, 422 if whole else 400, body)
                assert not whole or [detail["field"] for detail in error["details"]] == [f"records.1.{column.name}"]
    cases = {
        "a field missing": ({"records": [{k: v for k, v in good.items() if k != name}]}, f"records.0.{name}", "missing"),
        "an unknown field": ({"records": [good | {"hat": 1}]}, "records.0.hat", "extra_forbidden"),
        "an unknown top-level key": ({"records": [good], "extra": SECRET}, "extra", "extra_forbidden"),
        "no records": ({"records": []}, "records", "too_short"),
        "too many records": ({"records": [good] * 401}, "records", "too_long"),
        "not a list": ({"records": good}, "records", "list_type"),
        "not a record": ({"records": [good, 1]}, "records.1", "dict_type"),
        "nothing": ({}, "records", "missing"),
        "a list": ([good], "body", "dict_type"),
        "a value of a hundred digits": ({"records": [good | {contract.numeric_features[0]: 10**100}]} if contract.numeric_features else [], "", ""),
    }
    for what, (body, field, rule) in cases.items():
        details = refused(served, 422, body)["details"]
        assert not rule or (details[0]["field"], details[0]["rule"]) == (field, rule), what


def test_what_is_no_request(served):
    good = json.dumps({"records": [served.example]}).encode()
    nested, foreign = (b"[" * 100_000, b'{"a":' * 100_000), (b"\xff\xfe", b"\x00", good.decode().encode("utf-16"))
    for body in (b"", b"{", good[:-1], good + b"x", b'{"records": [NaN]}', *nested, *foreign):
        refused(served, 400, body)
    forms = ("application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x")
    for kind in ("", "text/plain", "application/jsonp", *forms):
        refused(served, 415, good, {"content-type": kind})
    refused(served, 415, good, {})
    refused(served, 415, good, {"content-type": "application/json; charset=latin-1"})
    refused(served, 415, good, JSON | {"content-encoding": "gzip"})
    refused(served, 404, good, path="/predict/more")
    refused(served, 404, None, path="/static_content/swagger-ui.css", method="GET")
    assert "POST" in refused(served, 405, None, path="/predict", method="GET")["message"]
    refused(served, 405, good, path="/")
    refused(served, 422, {"records": [served.example] * 2}, path="/explain")
    assert served.ask("POST", "/predict", good, {"content-type": "Application/JSON; charset=UTF-8"})[0] == 200
    assert served.ask("HEAD", "/model")[::2] == (200, b"")


def test_a_request_wrong_in_a_million_places_costs_little(served):
    began = time.monotonic()
    many = b'{"records": [{' + b",".join(b'"k%d":1' % at for at in range(250_000)) + b"}]}"
    refused(served, 422, many)
    refused(served, 422, b'{"records": [' + b",".join([b"1"] * 399) + b"]}")
    refused(served, 422, b"{" + b",".join(b'"k%d":1' % at for at in range(250_000)) + b"}")
    refused(served, 422, b'{"records": [' + b",".join([b"[]"] * 900_000) + b"]}")
    assert time.monotonic() - began < 20


def talk(served: Served, *parts: bytes, pause: float = 0) -> bytes:
    "Send bytes with pauses between, and read until the service closes."
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        for part in parts:
            try:
                line.sendall(part)
            except OSError:  # it has closed its side
                break
            time.sleep(pause)
        found = b""
        try:
            while more := line.recv(65536):
                found += more
        except OSError:
            pass
        return found


def test_large_slow_and_broken_bodies(served):
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    refused(served, 413, b" " * 20_000_000)
    chunks = [b"10000\r\n" + b" " * 65536 + b"\r\n"] * 60
    chunked = talk(served, head + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n", *chunks, b"0\r\n\r\n")
    assert chunked.startswith(b"HTTP/1.1 413")
    asked_before = talk(served, head + b"content-length: 20000000\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n")
    assert asked_before.startswith(b"HTTP/1.1 413")
    began = time.monotonic()
    slow = talk(served, head + b"content-length: 100\r\n\r\n", b'{"re', pause=0.1)
    assert slow.startswith(b"HTTP/1.1 408") and time.monotonic() - began < 10
    dripping = talk(served, head + b"content-length: 100\r\n\r\n", *[b" "] * 40, pause=0.1)
    assert dripping.startswith(b"HTTP/1.1 408")
    assert talk(served, b"\x16\x03\x01 nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    talk(served, head + b"content-length: -1\r\n\r\n")
    assert served.post({"records": [served.example]})[0] == 200
    assert not [line for line in served.lines() if line["status"] >= 500]


def test_nothing_that_was_sent_is_in_the_log(served):
    good, (name, *_) = served.example, served.predictor.contract.features
    marks = {"x-request-id": SECRET, "traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"}
    assert SECRET not in json.dumps(refused(served, 422, {"records": [good | {name: [SECRET]}]}, JSON | marks))
    refused(served, 422, {"records": [good | {SECRET: SECRET}], SECRET: 1}, JSON | marks)
    refused(served, 400, SECRET.encode(), JSON | marks)
    refused(served, 404, None, path="/" + SECRET.replace(" ", "%20"), method="GET")
    assert served.ask("POST", "/predict", json.dumps({"records": [good]}), JSON | {"x-request-id": "shop.7_a-B"})[1]["x-request-id"] == "shop.7_a-B"
    shown = served.log() + json.dumps(sorted(served.counts()))
    assert SECRET not in shown and SECRET.replace(" ", "%20") not in shown and "Traceback" not in shown
    last = served.lines()[-1]
    assert last["id"] == "shop.7_a-B" and last["model"] == served.predictor.digest and last["records"] == 1 and last["ms"] > 0
    assert last["outcome"] == "ok" and last["status"] == 200 and last["route"] == "/predict" and last["bytes"] > 100
    assert [line for line in served.lines() if line.get("trace") == "ab" * 16]


def test_what_is_counted(served):
    contract = served.predictor.contract
    before = served.counts()
    records = sample_records(contract, 40, seed=5)
    said = served.post({"records": records})[1]["predictions"]
    refused(served, 422, {"records": [{**records[0], contract.features[0]: []}, {**records[0], "hat": 1}]})
    after = served.counts()
    grown = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    assert grown['mle_service_requests_total{route="/predict",status="200"}'] == 1 and grown["mle_service_request_records_sum"] == 40
    labels = [one.get("label", "value") for one in said]
    assert {f'mle_service_predictions_total{{label="{label}"}}': labels.count(label) for label in set(labels)}.items() <= grown.items()
    assert grown[f'mle_service_rejected_fields_total{{field="{contract.features[0]}"}}'] == 1
    assert grown['mle_service_rejected_fields_total{field="(not in the contract)"}'] == 1
    strings = [contract.columns[name] for name in contract.categorical_features]
    open_ended = next((c.name for c in strings if c.categories and c.out_of_range != "reject"), None)
    if open_ended:
        served.post({"records": [served.example | {open_ended: "no such word"}]})
        assert served.counts()[f'mle_service_outside_range_total{{field="{open_ended}"}}'] == after.get(
            f'mle_service_outside_range_total{{field="{open_ended}"}}', 0
        ) + 1  # fmt: skip


def test_a_burst_is_shed_and_forgotten(sample):
    "More than fits is refused at once with a time to come back; what was let in is answered; afterwards all is as before."
    limits = {"MLE_SERVICE_MAX_CONCURRENCY": "12", "MLE_SERVICE_MAX_QUEUE": "2"}
    with serving(sample, **limits, MLE_SERVICE_ACCESS_LOG="none") as served:
        records = sample_records(served.predictor.contract, 3000)
        body = json.dumps({"records": records}).encode()
        with ThreadPoolExecutor(24) as pool:
            jobs = [pool.submit(served.ask, "POST", "/predict", body, JSON) for _ in range(48)]
            while not all(job.done() for job in jobs):
                began = time.monotonic()
                assert served.ask("GET", "/livez")[0] == 200 and time.monotonic() - began < 5
                time.sleep(0.05)
        found = [job.result() for job in jobs]
        assert {status for status, _, _ in found} <= {200, 429, 503} and len({status for status, _, _ in found}) > 1
        expected = served.predictor.describe(served.predictor.answer_records(records))
        for status, headers, said in found:
            assert json.loads(said)["predictions"] == expected if status == 200 else headers["retry-after"] == "1"
        assert [served.post({"records": [served.example]})[0] for _ in range(50)] == [200] * 50
        assert served.lines() == []


def test_an_answer_that_takes_too_long_is_504(sample):
    with serving(sample, MLE_SERVICE_TIMEOUT="0.05", MLE_SERVICE_ACCESS_LOG="failed") as served:
        body = {"records": sample_records(served.predictor.contract, 9000)}
        assert refused(served, 504, body)["code"] == "timeout"
        end = time.monotonic() + 20
        while served.post({"records": [served.example]})[0] != 200:
            assert time.monotonic() < end
        assert [line["outcome"] for line in served.lines()][0] == "timeout"


def test_keys(sample, tmp_path):
    "Without a key nothing but what is open; several keys at once; a changed file needs no restart; a wrong one changes nothing."
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("fixed", "old", "new")}
    file = tmp_path / "keys"
    file.write_text(f"{digests['old']} the shop\n")
    settings = {
        "MLE_SERVICE_API_KEY_HASHES": digests["fixed"],
        "MLE_SERVICE_API_KEY_HASHES_FILE": str(file),
        "MLE_SERVICE_PUBLIC_ENDPOINTS": "health",
    }
    with serving(sample, **settings) as served:
        body = {"records": [served.example]}

        def status(key: str, path: str = "/predict") -> int:
            return served.post(body, JSON | {"authorization": f"Bearer {key}"}, path)[0]

        for given in ({}, {"authorization": "Basic b2xkOm9sZA=="}, {"authorization": "Bearer "}, {"x-api-key": digests["old"]}):
            assert "key" in refused(served, 401, body, JSON | given)["message"]
        assert [status(key) for key in ("fixed", "old", "new", "ol", "old ")] == [200, 200, 401, 401, 200] and status("old", "/explain") == 200
        assert served.post(body, JSON | {"x-api-key": "old"})[0] == 200
        for path in ("/metrics", "/", "/model", "/docs.json", "/card"):
            refused(served, 401, None, {}, path, "GET")
            assert served.ask("GET", path, headers={"authorization": "Bearer fixed"})[0] == 200
        assert served.ask("GET", "/readyz")[0] == served.ask("GET", "/livez")[0] == 200
        document = json.loads(served.ask("GET", "/docs.json", headers={"x-api-key": "fixed"})[2])
        assert document["paths"]["/predict"]["post"]["security"] == document["paths"]["/metrics"]["get"]["security"] == [{"key": []}]
        file.write_text(f"{digests['old']}\n{digests['new']}\n")
        time.sleep(1.1)
        assert [status(key) for key in ("fixed", "old", "new")] == [200, 200, 200]
        file.write_text(f"{digests['new']}\n")
        time.sleep(1.1)
        assert [status(key) for key in ("fixed", "old", "new")] == [200, 401, 200]
        file.write_text("new\n")
        time.sleep(1.1)
        assert [status(key) for key in ("old", "new")] == [401, 200]
        assert "64 hex digits" in served.log() and not any(f" {key} " in served.log() or f'"{key}"' in served.log() for key in digests)


WRONG = {
    "a key in place of its hash": (
        {"MLE_SERVICE_API_KEY_HASHES": "secret"},
        "MLE_SERVICE_API_KEY_HASHES must hold SHA-256 digests",
    ),
    "a misspelt name": ({"MLE_SERVICE_TIMEOT": "5"}, "Did you mean MLE_SERVICE_TIMEOUT?"),
    "a former name": (
        {"MLE_SERVICE_KEYS": "secret"},
        "MLE_SERVICE_KEYS is not a setting of the service. Did you mean MLE_SERVICE_API_KEY_HASHES?",
    ),
    "a value out of its bounds": (
        {"MLE_SERVICE_WORKERS": "0"},
        "MLE_SERVICE_WORKERS is '0'; it must be an integer from 1 to 256.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_stops_the_start(sample, case):
    variables, sentence = WRONG[case]
    process, _ = started(sample, **variables)
    assert process.wait(60) != 0
    shown = (sample.root / ".mle" / "serve.log").read_text()
    assert sentence in shown
    assert "Traceback" not in shown and "secret" not in shown


def test_the_readmes_table_is_made_from_the_settings():
    "`mle readme` would change nothing; each setting stands in the table."
    readme = (ROOT / "README.md").read_text()
    assert readme.count(START) == 1 and with_settings(readme) == readme
    assert all(f"| `{variable_name(field)}` |" in readme for field in Settings.model_fields)


def test_health_is_answered_while_large_requests_are(served):
    body = json.dumps({"records": sample_records(served.predictor.contract, 400)}).encode()
    stop, waits = threading.Event(), []

    def press():
        while not stop.is_set():
            assert served.ask("POST", "/predict", body, JSON)[0] == 200

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(press) for _ in range(8)]
        for _ in range(20):
            began = time.monotonic()
            assert served.ask("GET", "/livez")[0] == 200
            waits.append(time.monotonic() - began)
        stop.set()
        for job in jobs:
            job.result()
    assert sorted(waits)[10] < 1
