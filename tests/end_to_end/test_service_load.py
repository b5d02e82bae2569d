"""The service under load.

It ends without losing what it took, loses a process, and does not grow.
"""

import http.client
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import JSON, Server, serving

from mle_project.core.strategies import sample_records


def workers(served: Server) -> list[int]:
    "The processes that answer requests: children of the one that was started."
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and f"\nPPid:\t{served.process.pid}\n" in (entry / "status").read_text()
            ):
                command = (entry / "cmdline").read_bytes()
                pids += [int(entry.name)] if b"_bentoml_impl.worker.service" in command else []
        except OSError:
            continue
    return pids


def memory(process: int) -> float:
    "Private memory of a process in MB."
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def test_it_ends_without_losing_what_it_took(sample):
    """SIGTERM while 16 callers keep asking.

    Every request whose answer began arrives whole, and every one in the log has been answered.
    """
    with serving(sample) as server:
        expected = server.predictor.format_predictions(
            server.predictor.predict_records([server.example])
        )
        large = json.dumps({"records": sample_records(server.predictor.contract, 2000)}).encode()
        small = json.dumps({"records": [server.example]}).encode()
        stop = threading.Event()

        def press(body: bytes) -> list[str]:
            "Outcomes: ok, or unanswered where the connection was closed before any answer."
            outcomes = []
            line = http.client.HTTPConnection(server.address, timeout=60)
            while not stop.is_set():
                try:
                    line.request("POST", "/predict", body, JSON)
                    answer = line.getresponse()
                except (OSError, http.client.RemoteDisconnected):
                    outcomes.append("unanswered")
                    return outcomes
                content = json.loads(answer.read())  # a broken answer fails the test
                assert answer.status == 200 and (
                    body is large or content["predictions"] == expected
                )
                outcomes.append("ok")
            return outcomes

        with ThreadPoolExecutor(16) as pool:
            jobs = [pool.submit(press, small if at % 4 else large) for at in range(16)]
            time.sleep(1.5)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
            stop.set()
            outcomes = [outcome for job in jobs for outcome in job.result()]
        log_lines = [line for line in server.lines() if line["status"] == 200]
        assert outcomes.count("ok") == len(log_lines) > 50
        assert not [line for line in server.lines() if line["status"] != 200]


@pytest.mark.parametrize("contained", [False, True], ids=["on a machine", "in a container"])
def test_a_killed_process_is_survived(sample, contained):
    """kill -9 of one of two: the other answers on.

    On a machine BentoML starts a new one. In a container it leaves that to whoever runs the
    container, and when none is left it ends, so that the container is started anew.
    """
    environment = {"BENTOML_CONTAINERIZED": "true"} if contained else {}
    with serving(sample, MLE_SERVICE_WORKERS="2", **environment) as server:
        end = time.monotonic() + 60
        while len(workers(server)) < 2:
            assert time.monotonic() < end
            time.sleep(0.2)
        first, second = workers(server)
        os.kill(first, signal.SIGKILL)
        answered = 0
        end = time.monotonic() + 60
        while answered < 20:
            try:
                answered += server.post({"records": [server.example]})[0] == 200
            except (OSError, http.client.HTTPException):  # what the killed process had taken
                assert time.monotonic() < end
        if contained:
            os.kill(second, signal.SIGKILL)
            assert server.process.wait(60) is not None
        else:
            while len(workers(server)) < 2:
                assert time.monotonic() < end
                time.sleep(0.2)
            assert second in workers(server) and first not in workers(server)
            assert (
                server.counts()['mle_service_requests_total{route="/predict",status="200"}'] >= 20
            )  # of all processes, the dead one too


def test_it_does_not_grow(sample):
    "Memory after many requests of all kinds, good and bad, is what it was after the first ones."
    with serving(sample, MLE_SERVICE_ACCESS_LOG="none") as server:
        contract = server.predictor.contract
        good = [
            json.dumps({"records": sample_records(contract, count, seed=count)}).encode()
            for count in (1, 10, 300)
        ]
        bad = [
            b"{",
            b'{"records": [{}]}',
            json.dumps({"records": [server.example | {"hat": 1}]}).encode(),
        ]

        def press(rounds: int) -> None:
            line = http.client.HTTPConnection(server.address, timeout=60)
            for _ in range(rounds):
                for body in good + bad:
                    line.request("POST", "/predict", body, JSON)
                    line.getresponse().read()

        def load(rounds: int) -> float:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(press, [rounds] * 8))
            return memory(workers(server)[0])

        load(15)
        before = load(10)
        after = load(30)
        assert after < before + 10, (before, after)
