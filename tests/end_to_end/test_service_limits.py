"""Nothing that a caller sends breaks the service.

Every rejection has its status and the one form, and no value reaches the log.
"""

import hashlib
import json
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from projects import ROOT
from servers import JSON, Server, serving, start_server

from mle_project.core.strategies import invalid_values, sample_records
from mle_project.serving.errors import ERROR_CODES
from mle_project.serving.settings import START, Settings, variable_name, with_settings
from mle_project.serving.validation import MAX_ERRORS

SECRET = "a value that nobody may see 4711"
LIMITS = {
    "MLE_SERVICE_MAX_RECORDS": "400",
    "MLE_SERVICE_MAX_BODY_BYTES": "3000000",
    "MLE_SERVICE_READ_TIMEOUT": "1.5",
}


@pytest.fixture(scope="module")
def server(sample):
    with serving(sample, **LIMITS) as one:
        yield one


def assert_error(
    served: Server,
    status: int,
    body: object,
    headers: dict | None = None,
    path: str = "/predict",
    method: str = "POST",
) -> dict:
    "The error of one answer, whose status and form are looked at."
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    actual, response_headers, content = served.ask(
        method, path, data, JSON if headers is None else headers
    )
    assert actual == status, (actual, content[:300])
    error = json.loads(content)["error"]
    assert (
        set(error) == {"code", "message", "request_id", "details"}
        and error["code"] == ERROR_CODES[status]
        and error["message"]
    )
    assert (
        response_headers["x-request-id"] == error["request_id"]
        and response_headers["content-type"] == "application/json"
    )
    assert all(
        set(detail) == {"field", "rule", "message"} and all(detail.values())
        for detail in error["details"]
    )
    assert len(error["details"]) <= MAX_ERRORS and b"Traceback" not in content
    return error


def test_every_rule_of_the_contract_is_named(server):
    contract = server.predictor.contract
    good = server.example
    name = contract.features[0]
    for column in map(contract.columns.__getitem__, contract.features):
        for examples in invalid_values(column).values():
            for value in examples:
                body = json.dumps({"records": [good, good | {column.name: value}]}).encode()
                whole = value != "\ud800" and not (
                    isinstance(value, float) and not math.isfinite(value)
                )  # those are not JSON
                error = assert_error(server, 422 if whole else 400, body)
                assert not whole or [detail["field"] for detail in error["details"]] == [
                    f"records.1.{column.name}"
                ]
    cases = {
        "a field missing": (
            {"records": [{k: v for k, v in good.items() if k != name}]},
            f"records.0.{name}",
            "missing",
        ),
        "an unknown field": ({"records": [good | {"hat": 1}]}, "records.0.hat", "extra_forbidden"),
        "an unknown top-level key": (
            {"records": [good], "extra": SECRET},
            "extra",
            "extra_forbidden",
        ),
        "no records": ({"records": []}, "records", "too_short"),
        "too many records": ({"records": [good] * 401}, "records", "too_long"),
        "not a list": ({"records": good}, "records", "list_type"),
        "not a record": ({"records": [good, 1]}, "records.1", "dict_type"),
        "nothing": ({}, "records", "missing"),
        "a list": ([good], "body", "dict_type"),
        "a value of a hundred digits": (
            {"records": [good | {contract.numeric_features[0]: 10**100}]}
            if contract.numeric_features
            else [],
            "",
            "",
        ),
    }
    for what, (body, field, rule) in cases.items():
        details = assert_error(server, 422, body)["details"]
        assert not rule or (details[0]["field"], details[0]["rule"]) == (field, rule), what


def test_what_is_no_request(server):
    good = json.dumps({"records": [server.example]}).encode()
    nested = (b"[" * 100_000, b'{"a":' * 100_000)
    foreign = (b"\xff\xfe", b"\x00", good.decode().encode("utf-16"))
    for body in (b"", b"{", good[:-1], good + b"x", b'{"records": [NaN]}', *nested, *foreign):
        assert_error(server, 400, body)
    forms = (
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
    )
    for kind in ("", "text/plain", "application/jsonp", *forms):
        assert_error(server, 415, good, {"content-type": kind})
    assert_error(server, 415, good, {})
    assert_error(server, 415, good, {"content-type": "application/json; charset=latin-1"})
    assert_error(server, 415, good, JSON | {"content-encoding": "gzip"})
    assert_error(server, 404, good, path="/predict/more")
    assert_error(server, 404, None, path="/static_content/swagger-ui.css", method="GET")
    assert "POST" in assert_error(server, 405, None, path="/predict", method="GET")["message"]
    assert_error(server, 405, good, path="/")
    assert_error(server, 422, {"records": [server.example] * 2}, path="/explain")
    assert (
        server.ask("POST", "/predict", good, {"content-type": "Application/JSON; charset=UTF-8"})[0]
        == 200
    )
    assert server.ask("HEAD", "/model")[::2] == (200, b"")


def test_a_request_wrong_in_a_million_places_costs_little(server):
    began = time.monotonic()
    many = b'{"records": [{' + b",".join(b'"k%d":1' % at for at in range(250_000)) + b"}]}"
    assert_error(server, 422, many)
    assert_error(server, 422, b'{"records": [' + b",".join([b"1"] * 399) + b"]}")
    assert_error(server, 422, b"{" + b",".join(b'"k%d":1' % at for at in range(250_000)) + b"}")
    assert_error(server, 422, b'{"records": [' + b",".join([b"[]"] * 900_000) + b"]}")
    assert time.monotonic() - began < 20


def talk(served: Server, *parts: bytes, pause: float = 0) -> bytes:
    "Send bytes with pauses between, and read until the service closes."
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        for part in parts:
            try:
                line.sendall(part)
            except OSError:  # it has closed its side
                break
            time.sleep(pause)
        reply = b""
        try:
            while more := line.recv(65536):
                reply += more
        except OSError:
            pass
        return reply


def test_large_slow_and_broken_bodies(server):
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    assert_error(server, 413, b" " * 20_000_000)
    chunks = [b"10000\r\n" + b" " * 65536 + b"\r\n"] * 60
    reply_to_chunks = talk(
        server,
        head + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        *chunks,
        b"0\r\n\r\n",
    )
    assert reply_to_chunks.startswith(b"HTTP/1.1 413")
    asked_before = talk(
        server,
        head + b"content-length: 20000000\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
    )
    assert asked_before.startswith(b"HTTP/1.1 413")
    began = time.monotonic()
    slow = talk(server, head + b"content-length: 100\r\n\r\n", b'{"re', pause=0.1)
    assert slow.startswith(b"HTTP/1.1 408") and time.monotonic() - began < 10
    reply_to_drops = talk(server, head + b"content-length: 100\r\n\r\n", *[b" "] * 40, pause=0.1)
    assert reply_to_drops.startswith(b"HTTP/1.1 408")
    assert talk(server, b"\x16\x03\x01 nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    talk(server, head + b"content-length: -1\r\n\r\n")
    assert server.post({"records": [server.example]})[0] == 200
    assert not [line for line in server.lines() if line["status"] >= 500]


def test_a_head_that_contradicts_itself_is_rejected_and_the_connection_closed(server):
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    both = head + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n"
    reply = talk(server, both, b"2\r\n{}\r\n0\r\n\r\n").lower()
    assert reply.startswith(b"http/1.1 400") and b"connection: close" in reply


def test_a_name_that_stands_twice_in_a_record_is_rejected(server):
    name = next(iter(server.example))
    record = json.dumps(server.example)
    twice = f'{{"records": [{record[:-1]}, {json.dumps(name)}: null}}]}}'
    error = assert_error(server, 422, twice.encode())
    assert error["details"] == [
        {"field": name, "rule": "repeated", "message": "The name stands twice. Keep one."}
    ]
    spaced = json.dumps({"records": [server.example]}, separators=(", ", " : "))
    assert server.ask("POST", "/predict", spaced.encode(), JSON)[0] == 200


def test_nothing_that_was_sent_is_in_the_log(server):
    good = server.example
    name = server.predictor.contract.features[0]
    marks = {"x-request-id": SECRET, "traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"}
    assert SECRET not in json.dumps(
        assert_error(server, 422, {"records": [good | {name: [SECRET]}]}, JSON | marks)
    )
    assert_error(server, 422, {"records": [good | {SECRET: SECRET}], SECRET: 1}, JSON | marks)
    assert_error(server, 400, SECRET.encode(), JSON | marks)
    assert_error(server, 404, None, path="/" + SECRET.replace(" ", "%20"), method="GET")
    assert (
        server.ask(
            "POST",
            "/predict",
            json.dumps({"records": [good]}),
            JSON | {"x-request-id": "shop.7_a-B"},
        )[1]["x-request-id"]
        == "shop.7_a-B"
    )
    log_text = server.log() + json.dumps(sorted(server.counts()))
    assert (
        SECRET not in log_text
        and SECRET.replace(" ", "%20") not in log_text
        and "Traceback" not in log_text
    )
    last = server.lines()[-1]
    assert (
        last["id"] == "shop.7_a-B"
        and last["model"] == server.predictor.digest
        and last["records"] == 1
        and last["ms"] > 0
    )
    assert (
        last["outcome"] == "ok"
        and last["status"] == 200
        and last["route"] == "/predict"
        and last["bytes"] > 100
    )
    assert [line for line in server.lines() if line.get("trace") == "ab" * 16]


def test_what_is_counted(server):
    contract = server.predictor.contract
    before = server.counts()
    records = sample_records(contract, 40, seed=5)
    predictions = server.post({"records": records})[1]["predictions"]
    assert_error(
        server,
        422,
        {"records": [{**records[0], contract.features[0]: []}, {**records[0], "hat": 1}]},
    )
    after = server.counts()
    growth = {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if value != before.get(name, 0)
    }
    assert (
        growth['mle_service_requests_total{route="/predict",status="200"}'] == 1
        and growth["mle_service_request_records_sum"] == 40
    )
    labels = [one.get("label", "value") for one in predictions]
    assert {
        f'mle_service_predictions_total{{label="{label}"}}': labels.count(label)
        for label in set(labels)
    }.items() <= growth.items()
    assert growth[f'mle_service_validation_errors_total{{field="{contract.features[0]}"}}'] == 1
    assert growth['mle_service_validation_errors_total{field="(not in the contract)"}'] == 1
    strings = [contract.columns[name] for name in contract.categorical_features]
    open_ended = next(
        (c.name for c in strings if c.categories and c.out_of_range != "reject"), None
    )
    if open_ended:
        server.post({"records": [server.example | {open_ended: "no such word"}]})
        line = f'mle_service_out_of_range_values_total{{field="{open_ended}"}}'
        assert server.counts()[line] == after.get(line, 0) + 1


def test_a_burst_is_shed_and_forgotten(sample):
    """More than fits is rejected at once with a time to come back.

    What was let in is answered; afterwards all is as before.
    """
    limits = {"MLE_SERVICE_MAX_CONCURRENCY": "12", "MLE_SERVICE_MAX_QUEUE": "2"}
    with serving(sample, **limits, MLE_SERVICE_ACCESS_LOG="none") as server:
        records = sample_records(server.predictor.contract, 3000)
        body = json.dumps({"records": records}).encode()
        with ThreadPoolExecutor(24) as pool:
            jobs = [pool.submit(server.ask, "POST", "/predict", body, JSON) for _ in range(48)]
            while not all(job.done() for job in jobs):
                began = time.monotonic()
                assert server.ask("GET", "/livez")[0] == 200 and time.monotonic() - began < 5
                time.sleep(0.05)
        responses = [job.result() for job in jobs]
        assert {status for status, _, _ in responses} <= {200, 429, 503} and len(
            {status for status, _, _ in responses}
        ) > 1
        expected = server.predictor.format_predictions(server.predictor.predict_records(records))
        for status, headers, content in responses:
            assert (
                json.loads(content)["predictions"] == expected
                if status == 200
                else headers["retry-after"] == "1"
            )
        assert [server.post({"records": [server.example]})[0] for _ in range(50)] == [200] * 50
        assert server.lines() == []


def test_an_answer_that_takes_too_long_is_504(sample):
    with serving(sample, MLE_SERVICE_TIMEOUT="0.05", MLE_SERVICE_ACCESS_LOG="failed") as server:
        body = {"records": sample_records(server.predictor.contract, 9000)}
        assert assert_error(server, 504, body)["code"] == "timeout"
        end = time.monotonic() + 20
        while server.post({"records": [server.example]})[0] != 200:
            assert time.monotonic() < end
        assert [line["outcome"] for line in server.lines()][0] == "timeout"


def test_keys(sample, tmp_path):
    """Without a key nothing but what is open; several keys at once.

    A changed file needs no restart; a wrong one changes nothing.
    """
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("fixed", "old", "new")}
    file = tmp_path / "keys"
    file.write_text(f"{digests['old']} the shop\n")
    settings = {
        "MLE_SERVICE_API_KEY_HASHES": digests["fixed"],
        "MLE_SERVICE_API_KEY_HASHES_FILE": str(file),
        "MLE_SERVICE_PUBLIC_ENDPOINTS": "health",
    }
    with serving(sample, **settings) as server:
        body = {"records": [server.example]}

        def status(key: str, path: str = "/predict") -> int:
            return server.post(body, JSON | {"authorization": f"Bearer {key}"}, path)[0]

        for headers in (
            {},
            {"authorization": "Basic b2xkOm9sZA=="},
            {"authorization": "Bearer "},
            {"x-api-key": digests["old"]},
        ):
            assert "key" in assert_error(server, 401, body, JSON | headers)["message"]
        assert [status(key) for key in ("fixed", "old", "new", "ol", "old ")] == [
            200,
            200,
            401,
            401,
            200,
        ] and status("old", "/explain") == 200
        assert server.post(body, JSON | {"x-api-key": "old"})[0] == 200
        for path in ("/metrics", "/", "/model", "/docs.json", "/card"):
            assert_error(server, 401, None, {}, path, "GET")
            assert server.ask("GET", path, headers={"authorization": "Bearer fixed"})[0] == 200
        assert server.ask("GET", "/readyz")[0] == server.ask("GET", "/livez")[0] == 200
        document = json.loads(server.ask("GET", "/docs.json", headers={"x-api-key": "fixed"})[2])
        assert (
            document["paths"]["/predict"]["post"]["security"]
            == document["paths"]["/metrics"]["get"]["security"]
            == [{"key": []}]
        )
        file.write_text(f"{digests['old']}\n{digests['new']}\n")
        time.sleep(1.1)
        assert [status(key) for key in ("fixed", "old", "new")] == [200, 200, 200]
        file.write_text(f"{digests['new']}\n")
        time.sleep(1.1)
        assert [status(key) for key in ("fixed", "old", "new")] == [200, 401, 200]
        file.write_text("new\n")
        time.sleep(1.1)
        assert [status(key) for key in ("old", "new")] == [401, 200]
        assert "64 hex digits" in server.log() and not any(
            f" {key} " in server.log() or f'"{key}"' in server.log() for key in digests
        )


WRONG = {
    "a key in place of its hash": (
        {"MLE_SERVICE_API_KEY_HASHES": "secret"},
        "MLE_SERVICE_API_KEY_HASHES must hold SHA-256 digests",
    ),
    "a misspelt name": ({"MLE_SERVICE_TIMEOT": "5"}, "Did you mean MLE_SERVICE_TIMEOUT?"),
    "a former name": (
        {"MLE_SERVICE_KEYS": "secret"},
        "MLE_SERVICE_KEYS is not a setting of the service. "
        "Did you mean MLE_SERVICE_API_KEY_HASHES?",
    ),
    "a value out of its bounds": (
        {"MLE_SERVICE_WORKERS": "0"},
        "MLE_SERVICE_WORKERS is '0'; it must be an integer from 1 to 256.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_stops_the_start(sample, case):
    variables, sentence = WRONG[case]
    process, _ = start_server(sample, **variables)
    assert process.wait(60) != 0
    log = (sample.root / ".mle" / "serve.log").read_text()
    assert sentence in log
    assert "Traceback" not in log and "secret" not in log


def test_the_readmes_table_is_made_from_the_settings():
    "`mle readme` would change nothing; each setting stands in the table."
    readme = (ROOT / "README.md").read_text()
    assert readme.count(START) == 1 and with_settings(readme) == readme
    assert all(f"| `{variable_name(field)}` |" in readme for field in Settings.model_fields)


def test_health_is_answered_while_large_requests_are(server):
    body = json.dumps({"records": sample_records(server.predictor.contract, 400)}).encode()
    stop = threading.Event()
    waits = []

    def press():
        while not stop.is_set():
            assert server.ask("POST", "/predict", body, JSON)[0] == 200

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(press) for _ in range(8)]
        for _ in range(20):
            began = time.monotonic()
            assert server.ask("GET", "/livez")[0] == 200
            waits.append(time.monotonic() - began)
        stop.set()
        for job in jobs:
            job.result()
    assert sorted(waits)[10] < 1
