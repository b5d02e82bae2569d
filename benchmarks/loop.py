"""Measure the loop of a change: how long `dvc repro` takes after an edit, in a copy of this clone.

The graph must have run here. Run it from the root of a clone, in the environment, on a quiet
machine:

    python benchmarks/loop.py

Three edits, each followed by the export that saving in JupyterLab makes: prose in a lesson, a value
in the code of `eda`, and a line of code in `features` as a new feature would be. Seconds are this
machine's; the last column is in units of an undisturbed no-op of `dvc repro`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = shutil.ignore_patterns(".venv", "__pycache__", ".pytest_cache", ".ruff_cache", "failed")
EDITS = {
    "prose of a lesson": ("02_eda", "markdown", "\n\nA sentence more."),
    "a value in eda": ("02_eda", "code", "\nloop_benchmark = 1"),
    "a feature to final metrics": ("03_features", "export", "\n\nLOOP_BENCHMARK = 1"),
}


def edit(notebook: Path, kind: str, text: str) -> None:
    "Append a text to the last cell of a kind: Markdown, code that only the stage runs, or export."
    content = nbformat.read(notebook, as_version=4)
    marks = {"markdown": "", "code": "#| eval: false", "export": "#| export"}
    cells = [
        cell
        for cell in content.cells
        if cell.cell_type == ("markdown" if kind == "markdown" else "code")
        and cell.source.startswith(marks[kind])
    ]
    cells[-1].source += text
    nbformat.write(content, notebook)


def run(folder: Path, *command: str) -> float:
    "Seconds of a command in the copy; ends the benchmark where it fails."
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return time.monotonic() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "copy"
        shutil.copytree(ROOT, folder, symlinks=True, ignore=SKIPPED)
        run(folder, "dvc", "repro", "-q")
        noop = run(folder, "dvc", "repro", "-q")
        print(f"{'no-op':28} {noop:7.1f} s", flush=True)
        for name, (lesson, kind, text) in EDITS.items():
            edit(folder / "nbs" / f"{lesson}.ipynb", kind, text)
            run(folder, "nbdev_export")
            target = ["final_model"] if kind == "export" else []
            seconds = run(folder, "dvc", "repro", "-q", *target)
            print(f"{name:28} {seconds:7.1f} s  {seconds / noop:6.0f} no-ops", flush=True)


if __name__ == "__main__":
    main()
