"""Measure what a fresh clone costs: environment, cold graph, no-op, peak memory.

Also the graph against bare library calls. Run it from the root of a clone on a quiet machine:

    python3 benchmarks/budgets.py

It clones the committed state into a temporary folder and works there. Only ratios carry over from
one machine to another.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


def tree_memory(pid: int) -> int:
    "Bytes of resident memory of a process and all its descendants; shared pages count in each."
    total = 0
    pids = [pid]
    while pids:
        one = pids.pop()
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * resource.getpagesize()
            for task in Path(f"/proc/{one}/task").iterdir():
                pids += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, IndexError):
            continue
    return total


class Cost(NamedTuple):
    "Of a command with its descendants."

    seconds: float
    memory: float  # the peak, in GiB
    work: float  # seconds of processor; other programs on the machine hardly change it


def measure(*command: str, cwd: Path, log: Path) -> Cost:
    "Run a command to its end."
    peak = 0
    began = time.monotonic()
    with open(log, "w") as out:
        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT)
        finished = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not finished.wait(0.2):
                peak = max(peak, tree_memory(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        finished.set()
        watcher.join()
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-3000:]}")
    return Cost(time.monotonic() - began, peak / 2**30, usage.ru_utime + usage.ru_stime)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        log = Path(folder) / "log"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        (clone / "dvc.lock").unlink(missing_ok=True)
        rows = {}
        rows["environment (make env)"] = measure("make", "env", cwd=clone, log=log)
        program = str(clone / ".venv" / "bin")
        os.environ["PATH"] = f"{program}:{os.environ['PATH']}"
        rows["cold graph (dvc repro)"] = measure("dvc", "repro", cwd=clone, log=log)
        rows["no-op (dvc repro)"] = measure("dvc", "repro", cwd=clone, log=log)
        script = str(ROOT / "benchmarks" / "library_calls.py")
        rows["bare library calls"] = measure(f"{program}/python", script, cwd=clone, log=log)
        calls = json.loads(log.read_text().splitlines()[-1])
        for name, cost in rows.items():
            print(
                f"{name:26} {cost.seconds:7.1f} s  {cost.memory:5.2f} GiB  "
                f"{cost.work:7.1f} s of processor"
            )
        print(
            "library calls, by kind:   ",
            ", ".join(f"{name} {seconds:.1f} s" for name, seconds in calls.items()),
        )
        ratio = rows["cold graph (dvc repro)"].seconds / sum(calls.values())
        print(f"graph / library calls      {ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
