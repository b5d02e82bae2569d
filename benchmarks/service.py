"""The service beside what people would write in its place: requests a second, processor time, waiting, memory, start. One run, taking turns.

    python benchmarks/service.py [--rounds 3] [--seconds 4] [--only a b c d] [--environment FOLDER] [--soak MINUTES]

(a) `bentoml serve`; (b) FastAPI with pydantic records, a DataFrame and the pickled pipeline; (c) FastAPI with the same compiled model;
(d) `mlflow models serve`. All of them run with one process, from one throw-away environment made from requirements/benchmark.txt (uvloop
and httptools for all that can use them), keep running while the others are asked, and log every request to a file. `wrk` asks. On a busy
machine the processor time of a request says more than the requests in a second, which others' work shortens.
`--soak` presses (a) with good and bad requests for some minutes and prints its memory.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from mle_project.artifact.predictor import Predictor
from mle_project.core.arrays import feature_frame
from mle_project.core.strategies import sample_records
from mle_project.core.validation import records_frame

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "final"
CELLS = [(records, connections) for records in (1, 100) for connections in (1, 16, 64)]
NAMES = {
    "a": "this service",
    "b": "FastAPI, pickled pipeline",
    "c": "FastAPI, compiled model",
    "d": "mlflow",
}
LUA = """wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
local file = io.open(os.getenv("BODY"))
wrk.body = file:read("*a")
file:close()
"""
MLFLOW = """import joblib, mlflow, sys
mlflow.sklearn.save_model(joblib.load(sys.argv[1]), sys.argv[2], pyfunc_predict_fn="predict_proba", serialization_format="cloudpickle")"""


def environment(folder: Path) -> Path:
    """The programs of an environment made from the lock file."""
    if not (folder / "bin" / "uvicorn").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [
            "uv",
            "pip",
            "sync",
            "--quiet",
            "--python",
            folder / "bin" / "python",
            "--require-hashes",
            ROOT / "requirements" / "benchmark.txt",
        ]
        subprocess.run(command, check=True)
    return folder / "bin"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def tree(process: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents.setdefault(
                    int(re.search(r"PPid:\s+(\d+)", (entry / "status").read_text())[1]), []
                ).append(int(entry.name))
            except OSError:
                continue
    processes, new = [], [process]
    while new:
        processes, new = processes + new, [child for one in new for child in parents.get(one, [])]
    return processes


def processor(process: int) -> float:
    """Seconds of processor time that a process and its descendants have used."""
    total = 0.0
    for one in tree(process):
        with contextlib.suppress(OSError):
            total += sum(
                map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13])
            )
    return total / os.sysconf("SC_CLK_TCK")


def memory(process: int) -> float:
    """MB of a process and its descendants, what they share counted once."""
    total = 0
    for one in tree(process):
        try:
            total += int(
                re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M)[1]
            )
        except OSError:
            continue
    return total / 1024


class Server:
    """One of those that are compared."""

    def __init__(self, kind: str, programs: Path, scratch: Path, bodies: dict[int, bytes]) -> None:
        self.kind, self.port = kind, free_port()
        self.log = open(scratch / f"{kind}.log", "w")  # noqa: SIM115
        self.url = f"http://127.0.0.1:{self.port}/{'invocations' if kind == 'd' else 'predict'}"
        self.files = {}
        for count, body in bodies.items():
            self.files[count] = scratch / f"{kind}_{count}.json"
            self.files[count].write_bytes(body)
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLE_", "VIRTUAL_ENV"))
        }
        env |= {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}",
            "MODEL": str(MODEL),
        }
        env |= {
            "BENTOML_HOME": str(scratch / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            "OMP_NUM_THREADS": "2",
            "GOMP_SPINCOUNT": "1000",
        }
        if kind == "d":
            save = [programs / "python", "-c", MLFLOW, MODEL / "native.joblib", scratch / "mlflow"]
            subprocess.run(save, env=env, check=True, stdout=self.log, stderr=self.log)
        port = ["--port", str(self.port)]
        command = {
            "a": ["bentoml", "serve", *port],
            "b": ["uvicorn", "--factory", "service_baselines:pipeline", *port],
            "c": ["uvicorn", "--factory", "service_baselines:compiled", *port],
            "d": [
                "mlflow",
                "models",
                "serve",
                "-m",
                str(scratch / "mlflow"),
                "--env-manager",
                "local",
                *port,
            ],
        }[kind]
        self.began, self.start = time.perf_counter(), 0.0
        folder = ROOT if kind == "a" else scratch
        self.process = subprocess.Popen(
            [programs / command[0], *command[1:]],
            cwd=folder,
            env=env,
            stdout=self.log,
            stderr=self.log,
        )

    def wait(self) -> None:
        """Until it answers."""
        while not self.answers():
            if self.process.poll() is not None or time.perf_counter() - self.began > 300:
                raise SystemExit(
                    f"{self.kind} does not start:\n{Path(self.log.name).read_text()[-2000:]}"
                )
            time.sleep(0.02)
        self.start = time.perf_counter() - self.began

    def answers(self) -> bool:
        try:
            request = urllib.request.Request(
                self.url, self.files[1].read_bytes(), {"content-type": "application/json"}
            )
            return urllib.request.urlopen(request, timeout=30).status == 200
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                raise SystemExit(f"{self.kind}: {error.code} {error.read()[:500]!r}") from None
            return False

    def press(
        self, records: int, connections: int, seconds: int, script: Path
    ) -> tuple[float, ...]:
        """Requests a second, milliseconds that half and 99 of 100 of them take at most, and those of processor time for each."""
        before = processor(self.process.pid)
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            "30s",
            "--latency",
            "-s",
            script,
            self.url,
        ]
        process = subprocess.run(
            command,
            env=os.environ | {"BODY": str(self.files[records])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        if "Non-2xx" in process or "Socket errors" in process:
            print(f"{self.kind} {records} {connections}: {process}", file=sys.stderr)
        spent, count = (
            processor(self.process.pid) - before,
            int(re.search(r"(\d+) requests in", process)[1]),
        )
        unit = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
        half, most = (
            re.search(rf"{share}%\s+([\d.]+)(us|ms|s|m)\b", process) for share in (50, 99)
        )
        waits = [float(match[1]) * unit[match[2]] for match in (half, most)]
        return (
            float(re.search(r"Requests/sec:\s+([\d.]+)", process)[1]),
            *waits,
            1000 * spent / max(count, 1),
        )

    def end(self) -> None:
        for one in reversed(tree(self.process.pid)):
            with contextlib.suppress(OSError):
                os.kill(one, 15)
        self.process.wait(60)


def bodies(kind: str, predictor: Predictor) -> dict[int, bytes]:
    """A request with one record and one with a hundred."""
    files = {}
    for count in (1, 100):
        records = sample_records(predictor.contract, count)
        body: object = {"records": records}
        if kind == "d":
            body = {
                "dataframe_split": json.loads(
                    feature_frame(records_frame(records), predictor.contract).to_json(
                        orient="split", index=False
                    )
                )
            }
        files[count] = json.dumps(body).encode()
    return files


def table(
    measurements: dict[tuple[str, int, int], list[tuple[float, ...]]], kinds: list[str]
) -> str:
    """Medians of the rounds, and the service's requests a second against the others'."""
    each = " | ".join(f"{NAMES[kind]}: requests/s, p50, p99, processor ms" for kind in kinds)
    lines = [f"| records | connections | {each} | requests/s of (a) against | processor |"]
    lines.append("|---|---|" + "---|" * len(kinds) + "---|---|")
    for records, connections in CELLS:
        middle = {
            kind: [
                statistics.median(values)
                for values in zip(*measurements[kind, records, connections], strict=True)
            ]
            for kind in kinds
        }
        ratios = {0: [], 3: []}
        for kind in kinds[1:]:
            pairs = list(
                zip(
                    measurements["a", records, connections],
                    measurements[kind, records, connections],
                    strict=True,
                )
            )
            ratios[0].append(
                f"{statistics.median(one[0] / max(other[0], 0.01) for one, other in pairs):.1f} ({kind})"
            )
            ratios[3].append(
                f"{statistics.median(other[3] / one[3] for one, other in pairs):.1f} ({kind})"
            )
        cells = [
            f"{values[0]:,.0f}, {values[1]:.1f}, {values[2]:.0f}, {values[3]:.2f}"
            for values in middle.values()
        ]
        cells += [", ".join(ratios[0]), ", ".join(ratios[3])]
        lines.append(f"| {records} | {connections} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def soak(server: Server, script: Path, minutes: float) -> None:
    """Print the memory of a server under good and bad requests."""
    bad = script.parent / "bad.json"
    bad.write_text('{"records": [{}], "x": 1}')
    end, files = time.monotonic() + 60 * minutes, [*server.files.values(), bad]
    while time.monotonic() < end:
        for file in files:
            command = ["wrk", "-t1", "-c16", "-d5s", "-s", script, server.url]
            subprocess.run(
                command, env=os.environ | {"BODY": str(file)}, check=True, capture_output=True
            )
        print(
            f"{60 * minutes - (end - time.monotonic()):6.0f} s  {memory(server.process.pid):6.1f} MB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--environment", type=Path)
    parser.add_argument("--soak", type=float, default=0)
    args = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is needed; on Debian or Ubuntu: apt-get install wrk")
    scratch, predictor, servers = Path(tempfile.mkdtemp(prefix="service-")), Predictor(MODEL), []
    try:
        programs = environment(args.environment or scratch / "environment")
        (scratch / "post.lua").write_text(LUA)
        kinds = ["a"] if args.soak else args.only
        for kind in kinds:
            servers.append(Server(kind, programs, scratch, bodies(kind, predictor)))
            servers[-1].wait()
        if args.soak:
            return soak(servers[0], scratch / "post.lua", args.soak)
        measurements: dict[tuple[str, int, int], list[tuple[float, ...]]] = {}
        for turn in range(args.rounds):
            for records, connections in CELLS:
                for server in servers:
                    server.press(records, connections, 1, scratch / "post.lua")
                    measurement = server.press(
                        records, connections, args.seconds, scratch / "post.lua"
                    )
                    measurements.setdefault((server.kind, records, connections), []).append(
                        measurement
                    )
                    print(
                        turn,
                        server.kind,
                        records,
                        connections,
                        measurement,
                        file=sys.stderr,
                        flush=True,
                    )
        print(table(measurements, kinds), "\n")
        print("| | ready after | memory after the load |\n|---|---|---|")
        for server in servers:
            print(
                f"| {NAMES[server.kind]} | {server.start:.1f} s | {memory(server.process.pid):.0f} MB |"
            )
    finally:
        for server in servers:
            server.end()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
