"""Accidents, at random moments, on a small run of the real graph.

Each must end in the bytes of an undisturbed run. Run it from the root:

    python benchmarks/drills.py [--rounds 10] [--seed 0] [--only "ctrl-c,disk full"]
                                [--sample FOLDER]

It clones the committed state into a temporary folder and runs the graph there on few rows, unless
--sample names a finished one.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mle_project.artifact.predictor import Predictor
from mle_project.core.project import ProjectError
from mle_project.pipeline.lockfile import lock_entries
from mle_project.pipeline.reproducibility import clone, downsize, run_graph

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
QUICK = ("tables", "eda", "leakage")  # stages that a drill disturbs


class Skipped(Exception):
    "This machine cannot hold the drill."


@dataclass
class Run:
    "A finished run of the graph that a drill may damage."

    top: Path
    dice: random.Random
    stages: tuple[str, ...] = QUICK
    outputs: list[str] = field(init=False)
    before: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.outputs = sorted(lock_entries((self.top / "dvc.lock").read_text()))
        self.before = self.digests()

    def digests(self) -> dict[str, str]:
        "The SHA-256 of every file of every output."
        paths = [
            path
            for name in self.outputs
            for path in [self.top / name, *(self.top / name).rglob("*")]
            if path.is_file()
        ]
        return {
            path.relative_to(self.top).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in paths
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        "Start a command in the folder, as a terminal would: a process group of its own."
        mine = {
            "PYTHONPATH": str(self.top),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "BENTOML_HOME": str(self.top / ".mle" / "bentoml"),
        }
        return subprocess.Popen(
            command,
            cwd=self.top,
            env={**os.environ, **mine},
            start_new_session=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *command: str) -> tuple[int, str]:
        "The exit status of a command, and what it printed."
        process = self.start(*command)
        output, _ = process.communicate(timeout=1800)
        return process.returncode, output

    def force(self, stage: str) -> tuple[str, ...]:
        return ("dvc", "repro", "--force", "--single-item", stage)

    def processes(self, part: str = "") -> list[int]:
        "The processes that work in the folder, and whose command line has a part."
        processes = []
        for entry in Path("/proc").iterdir():
            try:
                here = entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(
                    self.top
                )
                if here and part in (entry / "cmdline").read_text().replace("\0", " "):
                    processes.append(int(entry.name))
            except OSError:
                continue
        return processes

    def recovered(self, stage: str) -> None:
        """Nothing works on, and the stage runs again.

        Everything is as in the undisturbed run, and nothing lies about.
        """
        end = time.monotonic() + 30
        while self.processes() and time.monotonic() < end:
            time.sleep(0.1)
        assert not self.processes(), "a process goes on after the accident"
        status, output = self.run(*self.force(stage))
        assert status == 0, f"`dvc repro` does not run after the accident:\n{output[-3000:]}"
        self.settled()

    def settled(self) -> None:
        assert self.digests() == self.before, "the outputs are not those of the undisturbed run"
        paths = [
            path
            for name in ("data", "models", "reports", "metrics", ".mle/staging")
            for path in (self.top / name).rglob("*")
        ]
        leftover_paths = [
            path
            for path in paths
            if path.name.endswith((".part", ".old")) or "staging" in path.parts
        ]
        assert not leftover_paths, f"left over: {leftover_paths}"


def describe_outputs(run: Run) -> str:
    "Whether an accident came before the outputs were put in place."
    return "outputs kept" if run.digests() == run.before else "an output was on its way"


def killed(
    part: str, how: signal.Signals, whom: Callable[[int, int], None] = os.kill
) -> Callable[[Run], str]:
    "A drill: a stage runs, and at a random moment the process with this command line is ended."

    def drill(run: Run) -> str:
        stage = run.dice.choice(run.stages)
        seconds = json.loads((run.top / ".mle" / "resources.json").read_text())[stage]["seconds"]
        process = run.start(*run.force(stage))
        while not run.processes(part) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(run.dice.uniform(0, seconds * 1.1))
        processes = run.processes(part)
        for pid in processes[:1]:
            whom(pid, how)
        process.communicate(timeout=600)
        outcome = describe_outputs(run) if processes else "it had ended"
        run.recovered(stage)
        return outcome

    return drill


def two_at_once(run: Run) -> str:
    "Two runs of one graph, a moment apart."
    stage = run.dice.choice(run.stages)
    processes = [run.start(*run.force(stage))]
    time.sleep(run.dice.uniform(0, 6))
    processes.append(run.start(*run.force(stage)))
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    failed = [text for text, process in zip(outputs, processes, strict=True) if process.returncode]
    assert len(failed) < 2, "both failed:\n" + "\n".join(failed)[-3000:]
    for text in failed:
        assert any(words in text for words in ("Unable to acquire lock", "is busy", "blocked")), (
            text[-2000:]
        )
    run.recovered(stage)
    return "one was refused" if failed else "one after the other"


def edited_meanwhile(run: Run) -> str:
    "A literal of the notebook changes while its stage runs: what ran is not recorded as new."
    stage = run.dice.choice(run.stages)
    (path,) = (run.top / "nbs").glob(f"[0-9][0-9]_{stage}.ipynb")
    text = path.read_text()
    process = run.start(*run.force(stage))
    while not run.processes("ipykernel_launcher") and process.poll() is None:
        time.sleep(0.02)
    notebook = json.loads(text)
    first = next(
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "import" in "".join(cell["source"])
    )
    first["source"].append("\nunused = 1")
    path.write_text(json.dumps(notebook))
    output, _ = process.communicate(timeout=900)
    assert (
        process.returncode
        and "Type `dvc repro` again" in output
        and "nothing was recorded" in output
    ), output[-2000:]
    assert run.digests() == run.before
    path.write_text(text)
    run.recovered(stage)
    return "refused"


def leftovers(run: Run) -> str:
    "What an earlier crash left half-written."
    stage = run.dice.choice(run.stages)
    for name in (
        f".mle/staging/{stage}/reports/{stage}.ipynb",
        f".mle/staging/{stage}/data/tables/train.part",
    ):
        (run.top / name).parent.mkdir(parents=True, exist_ok=True)
        (run.top / name).write_text('{"cells": [')
    for name, one in lock_entries((run.top / "dvc.lock").read_text()).items():
        # As if it had ended after the earlier output was taken away, and before the new one came.
        if one.stage == stage:
            aside = (run.top / name).with_name(f".{Path(name).name}.old")
            aside.mkdir()
            (aside / "half").write_text("half")
    run.recovered(stage)
    return "gone"


def disk_full(run: Run) -> str:
    "No room left at a random moment; then there is room again."
    if os.getuid() or sys.platform != "linux":
        raise Skipped("a small disk needs root on Linux")
    stage = run.dice.choice(run.stages)
    disk = run.top.parent / f"disk-{run.dice.randrange(10**9)}"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        raise Skipped("tmpfs cannot be mounted here")
    try:
        shutil.copytree(run.top, disk / "project", symlinks=True)
        small = Run(disk / "project", run.dice, run.stages)
        room = shutil.disk_usage(disk).used + run.dice.randrange(0, 1_500_000)
        subprocess.run(["mount", "-o", f"remount,size={room}", str(disk)], check=True)
        status, output = small.run(*small.force(stage))
        outcome = "there was room" if status == 0 else describe_outputs(small)
        subprocess.run(["mount", "-o", "remount,size=4g", str(disk)], check=True)
        assert status == 0 or "No space left" in output or "disk" in output.lower(), output[-3000:]
        small.recovered(stage)
        return outcome
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def flip(path: Path, dice: random.Random) -> None:
    "Flip one bit of a file and keep its times, as a failing disk does."
    about = path.stat()
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(about.st_mode)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def flipped_output(run: Run) -> str:
    "A bit of an output: found, refused by the stage that reads it, mended."
    names = [name for name in run.before if (run.top / name).stat().st_size]
    name = run.dice.choice(
        [name for name in names if name.startswith("data/tables")]
        if run.dice.random() < 0.5
        else names
    )
    flip(run.top / name, run.dice)
    status, output = run.run("mle", "verify")
    assert status == 1 and "is not what stage" in output, output
    if name.startswith("data/tables"):
        status, output = run.run(*run.force("eda"))
        assert status and "is not what stage `tables` wrote" in output, output
    assert run.run("mle", "verify", "--repair")[0] == 0
    status, output = run.run("dvc", "repro")
    assert status == 0, output[-3000:]
    run.settled()
    return "found, mended"


def flipped_cache(run: Run) -> str:
    "A bit of a cached object: found, and the cache is whole again."
    objects = [
        path
        for path in (run.top / ".dvc" / "cache" / "files" / "md5").rglob("*")
        if path.is_file() and path.stat().st_size
    ]
    digests = {one.digest for one in lock_entries((run.top / "dvc.lock").read_text()).values()}
    path = run.dice.choice(
        sorted(path for path in objects if path.parent.name + path.name in digests)
    )
    flip(path, run.dice)
    status, output = run.run("mle", "verify")
    assert status == 1 and "is damaged" in output, output
    assert run.run("mle", "verify", "--repair")[0] == 0 and not path.exists()
    assert run.run("dvc", "repro")[0] == 0
    status, output = run.run("mle", "verify")
    assert status == 0 and path.exists(), f"the cache is not whole again: {output}"
    run.settled()
    return "found, mended"


def flipped_raw(run: Run) -> str:
    "A bit of the raw data: named; the owner brings it back."
    path = run.top / "data" / "raw" / "extra.csv"
    path.write_text("a,b\n" + "1,2\n" * 500)
    assert run.run("dvc", "commit", "--force", "fingerprint", "tables")[0] == 0
    content = path.read_bytes()
    flip(path, run.dice)
    status, output = run.run("mle", "verify")
    assert status == 1 and "data/raw has changed since stage" in output, output
    path.write_bytes(content)
    assert run.run("mle", "verify")[0] == 0
    run.settled()
    return "found"


def flipped_model(run: Run) -> str:
    "A bit of the model: it is not served."
    name = run.dice.choice(sorted(name for name in run.before if name.startswith("models/final/")))
    flip(run.top / name, run.dice)
    try:
        Predictor(run.top / "models" / "final")
        raise AssertionError(f"a model with a flipped bit in {name} was loaded")
    except (ProjectError, ValueError):
        pass
    assert run.run("mle", "verify", "--repair")[0] == 0
    status, output = run.run("dvc", "checkout", "models/final")
    assert status == 0, output
    run.settled()
    return "refused, brought back from the cache"


DRILLS: dict[str, Callable[[Run], str]] = {
    "kill -9 dvc repro": killed("dvc repro", signal.SIGKILL),
    "kill -9 stage": killed("bin/mle run", signal.SIGKILL),
    "kill -9 kernel": killed("ipykernel_launcher", signal.SIGKILL),
    "ctrl-c": killed("dvc repro", signal.SIGINT, os.killpg),
    "two at once": two_at_once,
    "edited meanwhile": edited_meanwhile,
    "leftovers": leftovers,
    "disk full": disk_full,
    "flipped output": flipped_output,
    "flipped cache": flipped_cache,
    "flipped raw": flipped_raw,
    "flipped model": flipped_model,
}


def hold(name: str, sample: Path, dice: random.Random, stages: tuple[str, ...] = QUICK) -> str:
    "Hold one drill on a copy of a finished run, on one of the stages; its outcome in words."
    with tempfile.TemporaryDirectory(prefix="mle-drill-") as folder:
        shutil.copytree(sample, Path(folder) / "project", symlinks=True)
        return DRILLS[name](Run(Path(folder) / "project", dice, stages))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(DRILLS))
    parser.add_argument("--sample", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mle-drills-") as folder:
        sample = args.sample or Path(folder) / "sample"
        if not args.sample:
            clone(ROOT, sample)
            downsize(sample, 8000)
            run_graph(sample, {}, force=True)
        failures = 0
        for name in args.only.split(","):
            outcomes: Counter[str] = Counter()
            for number in range(args.rounds):
                try:
                    dice = random.Random(f"{args.seed}/{name}/{number}")
                    outcomes[hold(name, sample, dice)] += 1
                except Skipped as reason:
                    outcomes[f"skipped: {reason}"] += 1
                except AssertionError as error:
                    failures += 1
                    outcomes[f"FAILED: {error}"] += 1
            counts = ", ".join(f"{count} {words}" for words, count in outcomes.items())
            print(f"{name:20} {args.rounds:3} times: {counts}", flush=True)
    sys.exit(f"{failures} drills failed" if failures else 0)


if __name__ == "__main__":
    main()
