"""The service beside what people would write in its place.

Requests a second, processor time, waiting, memory and start, in one run, taking turns:

    python benchmarks/service.py [--rounds 3] [--seconds 4] [--only a b c d]
                                 [--environment FOLDER] [--soak MINUTES]

(a) `bentoml serve`; (b) FastAPI with pydantic records, a DataFrame and the pickled pipeline; (c)
FastAPI with the same compiled model; (d) `mlflow models serve`. All of them run with one process,
from one throw-away environment made from requirements/benchmark.txt (uvloop and httptools for all
that can use them), keep running while the others are asked, and log every request to a file. `wrk`
asks. On a busy machine the processor time of a request says more than the requests in a second,
which others' work shortens.
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
from typing import NamedTuple

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
model = joblib.load(sys.argv[1])
options = {"pyfunc_predict_fn": "predict_proba", "serialization_format": "cloudpickle"}
mlflow.sklearn.save_model(model, sys.argv[2], **options)
"""


class Measurement(NamedTuple):
    "What `wrk` and the kernel say of some seconds of requests."

    rate: float  # requests a second
    half: float  # milliseconds that half of them take at most
    most: float  # milliseconds that 99 of 100 take at most
    work: float  # milliseconds of processor for each


Measurements = dict[tuple[str, int, int], list[Measurement]]  # by server, records, connections


def first_group(pattern: str, text: str) -> str:
    """The first group of a pattern that must be in a text."""
    match = re.search(pattern, text, re.M)
    if match is None:
        raise ValueError(f"{pattern} is not in: {text[-2000:]}")
    return match[1]


def milliseconds(share: int, text: str) -> float:
    """The time that a share of the requests, in percent, takes at most, as `wrk` prints it."""
    unit = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
    number = first_group(rf"{share}%\s+([\d.]+)(?:us|ms|s|m)\b", text)
    return float(number) * unit[first_group(rf"{share}%\s+[\d.]+(us|ms|s|m)\b", text)]


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
            str(folder / "bin" / "python"),
            "--require-hashes",
            str(ROOT / "requirements" / "benchmark.txt"),
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
                parent = int(first_group(r"PPid:\s+(\d+)", (entry / "status").read_text()))
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    processes: list[int] = []
    new = [process]
    while new:
        processes += new
        new = [child for one in new for child in parents.get(one, [])]
    return processes


def processor(process: int) -> float:
    """Seconds of processor time that a process and its descendants have used."""
    total = 0.0
    for one in tree(process):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(ticks) for ticks in fields[11:13])
    return total / os.sysconf("SC_CLK_TCK")


def memory(process: int) -> float:
    """MB of a process and its descendants, what they share counted once."""
    total = 0
    for one in tree(process):
        try:
            total += int(
                first_group(r"^Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text())
            )
        except (OSError, ValueError):  # it has ended
            continue
    return total / 1024


class Server:
    """One of those that are compared."""

    def __init__(self, kind: str, programs: Path, scratch: Path, bodies: dict[int, bytes]) -> None:
        self.kind = kind
        self.port = free_port()
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
            subprocess.run(
                [str(word) for word in save], env=env, check=True, stdout=self.log, stderr=self.log
            )
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
        self.began = time.perf_counter()
        self.start = 0.0
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

    def press(self, records: int, connections: int, seconds: int, script: Path) -> Measurement:
        """Send requests of so many records over so many connections."""
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
            str(script),
            self.url,
        ]
        output = subprocess.run(
            command,
            env=os.environ | {"BODY": str(self.files[records])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        if "Non-2xx" in output or "Socket errors" in output:
            print(f"{self.kind} {records} {connections}: {output}", file=sys.stderr)
        spent = processor(self.process.pid) - before
        count = int(first_group(r"(\d+) requests in", output))
        return Measurement(
            rate=float(first_group(r"Requests/sec:\s+([\d.]+)", output)),
            half=milliseconds(50, output),
            most=milliseconds(99, output),
            work=1000 * spent / max(count, 1),
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
            frame = feature_frame(records_frame(records), predictor.contract)
            body = {"dataframe_split": json.loads(frame.to_json(orient="split", index=False))}
        files[count] = json.dumps(body).encode()
    return files


def medians(measurements: list[Measurement]) -> str:
    """The medians of some rounds, as a cell of the table."""
    rate, half, most, work = (statistics.median(each) for each in zip(*measurements, strict=True))
    return f"{rate:,.0f}, {half:.1f}, {most:.0f}, {work:.2f}"


def table(measurements: Measurements, kinds: list[str]) -> str:
    """Medians of the rounds, and the service's requests a second against the others'."""
    each = " | ".join(f"{NAMES[kind]}: requests/s, p50, p99, processor ms" for kind in kinds)
    lines = [f"| records | connections | {each} | requests/s of (a) against | processor |"]
    lines.append("|---|---|" + "---|" * len(kinds) + "---|---|")
    for records, connections in CELLS:
        rates = []
        works = []
        for kind in kinds[1:]:
            pairs = list(
                zip(
                    measurements["a", records, connections],
                    measurements[kind, records, connections],
                    strict=True,
                )
            )
            rate = statistics.median(one.rate / max(other.rate, 0.01) for one, other in pairs)
            work = statistics.median(other.work / one.work for one, other in pairs)
            rates.append(f"{rate:.1f} ({kind})")
            works.append(f"{work:.1f} ({kind})")
        cells = [medians(measurements[kind, records, connections]) for kind in kinds]
        cells += [", ".join(rates), ", ".join(works)]
        lines.append(f"| {records} | {connections} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def soak(server: Server, script: Path, minutes: float) -> None:
    """Print the memory of a server under good and bad requests."""
    bad = script.parent / "bad.json"
    bad.write_text('{"records": [{}], "x": 1}')
    files = [*server.files.values(), bad]
    began = time.monotonic()
    while time.monotonic() < began + 60 * minutes:
        for file in files:
            command = ["wrk", "-t1", "-c16", "-d5s", "-s", str(script), server.url]
            subprocess.run(
                command, env=os.environ | {"BODY": str(file)}, check=True, capture_output=True
            )
        seconds = time.monotonic() - began
        print(f"{seconds:6.0f} s  {memory(server.process.pid):6.1f} MB", flush=True)


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
    scratch = Path(tempfile.mkdtemp(prefix="service-"))
    predictor = Predictor(MODEL)
    servers: list[Server] = []
    try:
        programs = environment(args.environment or scratch / "environment")
        (scratch / "post.lua").write_text(LUA)
        kinds = ["a"] if args.soak else args.only
        for kind in kinds:
            servers.append(Server(kind, programs, scratch, bodies(kind, predictor)))
            servers[-1].wait()
        if args.soak:
            return soak(servers[0], scratch / "post.lua", args.soak)
        measurements: Measurements = {}
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
            megabytes = memory(server.process.pid)
            print(f"| {NAMES[server.kind]} | {server.start:.1f} s | {megabytes:.0f} MB |")
    finally:
        for server in servers:
            server.end()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
