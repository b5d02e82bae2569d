"""Checks the image of `make image` by running it as a cluster would.

    python deploy/image/check.py [--run podman] [--image NAME:TAG]

The container has a read-only root, no capabilities, a user that is not root and bounded memory.
What it answers must be the artifact's numbers to the last bit. Ends with 1 and the sentences that
did not hold.
"""

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pandas as pd
from hypothesis import strategies as st

from mle_project.artifact.predictor import Predictor
from mle_project.core.request_model import example_record
from mle_project.core.strategies import sample_records, valid_records

ROOT = Path(__file__).resolve().parents[2]
HARDENED = [
    "--read-only",
    "--tmpfs",
    "/tmp",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--memory",
    "512m",
    "--pids-limit",
    "200",
]
ABSENT = ["gcc", "cc", "make", "git", "uv", "jupyter", "dvc", "papermill", "nbdev_export"]
SECRETS = ["pip.conf", "uv.toml", ".netrc", ".pypirc", ".git-credentials", "auth.json"]
# The most memory that a container has used, in cgroups of version 2 and of version 1.
PEAKS = ["/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes"]
NOT_PACKED = ["tensorflow", "sklearn", "pandas", "jupyterlab", "nbdev", "dvc", "setuptools"]


class Container:
    "One running container of the image."

    def __init__(self, engine: list[str], image: str) -> None:
        self.engine = engine
        self.image = image
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def call(self, *words: str, check: bool = True) -> str:
        process = subprocess.run(
            [*self.engine, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if check and process.returncode:
            raise SystemExit(
                f"image: `{shlex.join([*self.engine, *words])}` failed:\n{process.stdout[-3000:]}"
            )
        return process.stdout.strip()

    def start(self) -> float:
        "Seconds from the command to the first time that the service says it is ready."
        began = time.monotonic()
        # The engines' defaults can be above what the machine allows.
        limits = ["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=20000:20000"]
        self.name = self.call(
            "run",
            "-d",
            "--network",
            "host",
            *HARDENED,
            *limits,
            "-e",
            f"BENTOML_PORT={self.port}",
            self.image,
        ).splitlines()[-1]
        while not self.ready():
            if (
                time.monotonic() - began > 120
                or self.call("inspect", "-f", "{{.State.Running}}", self.name) != "true"
            ):
                raise SystemExit(
                    f"image: the service did not become ready:\n{self.call('logs', self.name)}"
                )
            time.sleep(0.05)
        return time.monotonic() - began

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                return True
        except OSError:
            return False

    def inside(self, command: str) -> str:
        "What a shell command in the container prints, whatever it ends with."
        return self.call("exec", self.name, "sh", "-c", command, check=False)

    def ask(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/predict",
            json.dumps({"records": records}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.load(answer))

    def model(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/model", timeout=60) as answer:
            return dict(json.load(answer))

    def stop(self) -> tuple[float, str]:
        "Seconds that a stop takes, and the exit code."
        began = time.monotonic()
        self.call("stop", "-t", "60", self.name)
        seconds = time.monotonic() - began
        return seconds, self.call("inspect", "-f", "{{.State.ExitCode}}", self.name)

    def remove(self) -> None:
        self.call("rm", "-f", self.name)


@contextmanager
def running(engine: list[str], image: str) -> Iterator[tuple[Container, float]]:
    "A started container and how long it took to be ready; removed in the end."
    container = Container(engine, image)
    try:
        yield container, container.start()
    finally:
        if hasattr(container, "name"):
            container.remove()


def batches(predictor: Predictor) -> dict[str, list[list[dict[str, Any]]]]:
    """Requests to compare: real rows where there are some, random records, and generated ones.

    The generated ones have everything that the contract lets in.
    """
    contract = predictor.contract
    random_records = sample_records(contract, 3000, seed=1)
    generated: list[dict[str, Any]] = []

    @hypothesis.settings(
        max_examples=300,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.lists(valid_records(contract), min_size=1, max_size=3))
    def collect(records: list[dict[str, Any]]) -> None:
        generated.extend(records)

    collect()
    record_batches = {
        "example": [[example_record(contract)]],
        "random": [random_records],
        "one at a time": [[one] for one in random_records[:100]],
        "generated": [generated],
    }
    table = ROOT / "data" / "tables" / "test.parquet"
    if table.exists():
        rows = pd.read_parquet(table, columns=contract.features).head(3000)
        record_batches["real"] = [json.loads(rows.to_json(orient="records", double_precision=15))]
    return record_batches


def compare(container: Container, predictor: Predictor) -> tuple[dict[str, int], list[str]]:
    "How many answers of each kind were compared, and the kinds that differ in a bit or the digest."
    counts = {}
    faults = []
    for kind, requests in batches(predictor).items():
        counts[kind] = sum(map(len, requests))
        for records in requests:
            answer = container.ask(records)
            if answer["model"] != predictor.digest:
                faults.append(f"{kind}: the digest is {answer['model']}, not {predictor.digest}")
            outputs = predictor.predict_records(records)
            if answer["predictions"] != predictor.format_predictions(outputs):
                faults.append(f"{kind}: the answers are not the artifact's")
    return counts, faults


def settings_faults(about: dict[str, Any], predictor: Predictor) -> list[str]:
    "What is wrong with the image's labels, user, command or environment."
    config = about["Config"]
    labels = config.get("Labels") or {}
    text = json.dumps(config)
    faults = []
    if labels.get("mle.model.digest") != predictor.digest:
        faults.append("the label mle.model.digest is not the model's digest")
    if not labels.get("org.opencontainers.image.revision"):
        faults.append("the label org.opencontainers.image.revision is missing")
    if not (config.get("User") or "0").split(":")[0].isdigit() or config["User"].startswith("0"):
        faults.append(f"the user is {config.get('User')!r}, not a number other than 0")
    matches = re.findall(r"\b(?:PIP|UV)_\w+|\w*(?:PASSWORD|TOKEN|SECRET)\w*|\w+://\S+", text)
    return faults + [f"{word} stands in the image's settings" for word in matches]


def content_faults(container: Container) -> list[str]:
    "What is in the container that should not be, or is allowed that should not be."
    faults = []
    status = dict(
        line.split(":\t", 1)
        for line in container.inside("cat /proc/1/status").splitlines()
        if ":\t" in line
    )
    if status["Uid"].split()[0] == "0" or int(status["CapEff"], 16) or int(status["CapBnd"], 16):
        user = status["Uid"].split()[0]
        faults.append(f"the service runs as user {user} with capabilities {status['CapEff']}")
    if status["NoNewPrivs"] != "1" or status["Seccomp"] != "2":
        faults.append("new privileges can be had, or no system call is filtered")
    for place in ("/x", "/app/x", "/bento/x"):
        if container.inside(f"touch {place} && echo written").endswith("written"):
            faults.append(f"{place} can be written")
    faults += [
        f"the program {name} is in the image"
        for name in ABSENT
        if container.inside(f"command -v {name}")
    ]
    packed = container.inside("ls /app/lib/python3*/site-packages").split()
    faults += [f"the package {name} is in the image" for name in NOT_PACKED if name in packed]
    return faults


def leak_faults(container: Container) -> list[str]:
    """Files in the image that hold credentials or settings of the machine that built it.

    Also those that name the package index it used.
    """
    pip_config = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    ).stdout
    pip_config += " ".join(
        value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))
    )
    hosts = [
        host.encode()
        for host in {*re.findall(r"://(?:[^/@\s]*@)?([^/\s'\"]+)", pip_config)}
        - {"pypi.org", "files.pythonhosted.org"}
    ]
    faults = []
    with (
        subprocess.Popen(
            [*container.engine, "export", container.name], stdout=subprocess.PIPE
        ) as export,
        tarfile.open(fileobj=export.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if Path(member.name).name in SECRETS or member.name.split("/")[0] == "build":
                faults.append(f"/{member.name} is in the image")
            opened = archive.extractfile(member) if member.isfile() else None
            content = opened.read() if opened else b""
            faults += [f"/{member.name} names {host.decode()}" for host in hosts if host in content]
    return faults


def survives_a_killed_worker(container: Container) -> bool:
    "Whether the service answers again within 30 s after `kill -9` of the process that answers."
    workers = container.inside("grep -l worker /proc/[0-9]*/cmdline").splitlines()
    workers = [path.split("/")[2] for path in workers if "/self" not in path]
    container.inside(f"kill -{signal.SIGKILL.value} {workers[0]}")
    until = time.monotonic() + 30
    time.sleep(0.2)
    while time.monotonic() < until:
        if container.ready():
            return True
        time.sleep(0.1)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run",
        default=os.environ.get("ENGINE", "docker"),
        help="what runs containers, with its options: docker, podman",
    )
    parser.add_argument("--image", default="mle-project:latest")
    parser.add_argument(
        "--ready",
        type=float,
        default=4.0,
        help="seconds until the service must be ready, at best of three starts",
    )
    parser.add_argument("--megabytes", type=float, default=450.0, help="how large the image may be")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    engine = shlex.split(args.run)
    predictor = Predictor(ROOT / "models" / "final")

    about = json.loads(Container(engine, args.image).call("image", "inspect", args.image))[0]
    faults = settings_faults(about, predictor)
    starts = []
    for _ in range(2):
        with running(engine, args.image) as (_, seconds):
            starts.append(seconds)
    with running(engine, args.image) as (container, seconds):
        starts.append(seconds)
        counts, differ = compare(container, predictor)
        commit = (about["Config"].get("Labels") or {}).get("org.opencontainers.image.revision")
        if container.model()["revision"] != commit:
            faults.append(f"GET /model does not say the commit {commit}")
        faults += differ + content_faults(container) + leak_faults(container)
        memory = container.inside(f"cat {' '.join(PEAKS)} 2> /dev/null").split()
        if not survives_a_killed_worker(container):
            faults.append("the service does not answer after kill -9 of its worker")
        _, differ = compare(container, predictor)
        faults += differ
        stopped, code = container.stop()
    if code != "0" or stopped > 30:
        faults.append(f"SIGTERM ended the container with {code} after {stopped:.1f} s")
    megabytes = about["Size"] / 1e6
    if megabytes > args.megabytes:
        faults.append(f"the image has {megabytes:.0f} MB, more than {args.megabytes:.0f}")
    if min(starts) > args.ready:
        faults.append(f"ready after {min(starts):.1f} s at best, later than {args.ready} s")
    user = about["Config"]["User"]
    print(f"image     {args.image}, {megabytes:.0f} MB, user {user}, model {predictor.digest[:12]}")
    ready = ", ".join(f"{seconds:.1f}" for seconds in starts)
    print(f"ready     after {ready} s; stopped by SIGTERM after {stopped:.1f} s with {code}")
    peaks = ", ".join(f"{int(size) / 1e6:.0f} MB" for size in memory)
    print(f"memory    {peaks or 'not known'} at most")
    equal = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    print(f"answers   equal to the artifact's: {equal}, and again after a killed worker")
    for fault in faults:
        print(f"FAULT     {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
