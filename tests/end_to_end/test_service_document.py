"""Thousands of requests made from the service's own OpenAPI document; none breaks it, none gets an answer that the document does not name."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import serving

KEY = "a-key-for-the-tests"


@pytest.fixture(scope="module")
def server(sample):
    settings = {
        "MLE_SERVICE_API_KEY_HASHES": hashlib.sha256(KEY.encode()).hexdigest(),
        "MLE_SERVICE_PUBLIC_ENDPOINTS": "health page",
    }
    with serving(sample, **settings) as one:
        yield one


def test_schemathesis_finds_nothing(server, tmp_path):
    program = Path(sys.executable).parent / "schemathesis"
    command = [
        program,
        "run",
        f"{server.url}/docs.json",
        "--checks",
        "all",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "1000",
    ]
    command += [
        "--header",
        f"Authorization: Bearer {KEY}",
        "--workers",
        "2",
        "--generation-deterministic",
        "--continue-on-failure",
        "--no-color",
    ]
    command += ["--suppress-health-check", "all", "--report-json-path", tmp_path / "report.json"]
    process = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout[-6000:]
    report = json.loads((tmp_path / "report.json").read_text())
    statuses = [line["status"] for line in server.lines()]
    assert len(statuses) > 2000 and max(statuses) < 500, report.get("summary")
    assert {200, 400, 401, 405, 415, 422} <= set(statuses)
