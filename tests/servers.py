"""`bentoml serve` in a copy of the project, as a caller meets it over HTTP."""

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from projects import Project

from mle_project.artifact.predictor import Predictor
from mle_project.core.request_model import example_record

JSON = {"content-type": "application/json"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    "A running `bentoml serve`."

    def __init__(
        self, url: str, predictor: Predictor, process: subprocess.Popen, project: Project
    ) -> None:
        self.url = url
        self.predictor = predictor
        self.process = process
        self.project = project
        self.example = example_record(predictor.contract)
        self.address = url.removeprefix("http://")

    def ask(
        self, method: str, path: str, body: object = None, headers: dict | None = None
    ) -> tuple[int, dict, bytes]:
        "Status, headers and body of one answer."
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return (
                answer.status,
                {name.lower(): value for name, value in answer.getheaders()},
                answer.read(),
            )
        finally:
            connection.close()

    def post(
        self, body: object, headers: dict | None = None, path: str = "/predict"
    ) -> tuple[int, dict]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, content = self.ask("POST", path, data, headers or JSON)
        return status, json.loads(content)

    def log(self) -> str:
        return (self.project.root / ".mle" / "serve.log").read_text()

    def lines(self) -> list[dict]:
        "The lines of the log that speak of requests."
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def counts(self, headers: dict | None = None) -> dict[str, float]:
        "What /metrics says, by name and labels."
        text = self.ask("GET", "/metrics", headers=headers)[2].decode()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if not line.startswith("#")
        }


def start_server(project: Project, **environment: str) -> tuple[subprocess.Popen, int]:
    "`bentoml serve` on a free port."
    port = free_port()
    (project.root / ".mle").mkdir(exist_ok=True)
    with open(project.root / ".mle" / "serve.log", "w") as log:
        command = ["bentoml", "serve", "--port", str(port)]
        return subprocess.Popen(
            command, cwd=project.root, env=project.env | environment, stdout=log, stderr=log
        ), port


@contextmanager
def serving(project: Project, **environment: str) -> Iterator[Server]:
    "`bentoml serve` in a project, ready, as long as the block lasts."
    process, port = start_server(project, **environment)
    server = Server(
        f"http://127.0.0.1:{port}", Predictor(project.root / "models" / "final"), process, project
    )
    try:
        end = time.monotonic() + 90
        while True:
            assert process.poll() is None and time.monotonic() < end, server.log()
            try:
                server.ask("GET", "/livez")
                break
            except OSError:
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(60)
