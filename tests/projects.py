"""Copies of this project that a test may change, and the facts of the project that tests read."""

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from mle_project.core.contract import read_contract

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
QUERY = PARAMS["tables"]["query"]
CONTRACT = read_contract(ROOT / PARAMS["tables"]["contract"])
# Some tests know the example's columns. After `mle adopt` they are skipped.
example_only = pytest.mark.skipif(
    QUERY != "sql/flights.sql",
    reason="speaks of the example's columns; this project has a table of its own",
)

# What the stage `importance` fits again and again.
QUICK = {
    "family": "boosting",
    "max_rows": 1000,
    "overrides": {"max_iter": 20},
}


class Project:
    "A copy of the project that a test may change."

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def env(self) -> dict[str, str]:
        "This environment's programs, the copy's package, and a BentoML home of its own."
        home = {"PYTHONPATH": str(self.root), "BENTOML_HOME": str(self.root / ".mle" / "bentoml")}
        inherited = {
            k: v for k, v in os.environ.items() if k not in ("MLE_STAGING", "BENTOML_DO_NOT_TRACK")
        }
        return inherited | {"PATH": f"{BIN}:{os.environ['PATH']}"} | home

    def run(
        self, *command: str, check: bool = True, timeout: int = 900
    ) -> subprocess.CompletedProcess[str]:
        "Run a command in the copy; its output is stdout and stderr together."
        process = subprocess.run(
            command,
            cwd=self.root,
            env=self.env,
            text=True,
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert not check or process.returncode == 0, (
            f"{' '.join(command)} ended with {process.returncode}:\n{process.stdout[-6000:]}"
        )
        return process

    def params(self, **changes: object) -> None:
        "Change keys of params.yaml, named section__key."
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            section, key = name.split("__")
            content[section][key] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def replace(self, file: str, old: str, new: str) -> None:
        "Replace a text, which must be there once, in a file."
        path = self.root / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def package_texts(folder: Path) -> dict[str, str]:
    "The text of each module by its path in the package; without nbdev's index."
    paths = sorted(path for path in folder.rglob("*.py") if path.name != "_modidx.py")
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def linked(source: str, target: str) -> str:
    "Copy a file; link those in data/raw/, which may be large and which nobody edits in place."
    if "/data/raw/" in source:
        with suppress(OSError):  # on another file system, or there already
            os.link(source, target)
            return target
    return str(shutil.copy2(source, target))


def project_files() -> list[Path]:
    "What git would take of this project, but for the hashes of the last run."
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = [Path(name) for name in names.splitlines() if name != "dvc.lock"]
    return [path for path in paths if (ROOT / path).is_file()]


def copy_project(target: Path) -> Project:
    "What git would take of this project, and its data/raw/, in a new repository."
    for path in project_files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path)
    shutil.copytree(
        ROOT / "data" / "raw", target / "data" / "raw", copy_function=linked, dirs_exist_ok=True
    )
    project = Project(target)
    commit = [
        "git",
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.com",
        "commit",
        "-qm",
        "copy",
    ]
    for command in (["git", "init", "-q"], ["git", "add", "-A"], commit):
        project.run(*command)
    return project


def stages_run(text: str) -> list[str]:
    "The stages that a `dvc repro` ran, in order."
    return [line.split("'")[1] for line in text.splitlines() if line.startswith("Running stage")]


# In the sample run, so that all that reads it sees a model with columns of its own.
FLIGHT_COLUMNS = """SELECT *,
  prev_leg_slack / NULLIF(prev_leg_gap, 0) AS slack_share,
  prev_leg_slack < 0 AND city_waiting > 20 AS squeezed,
  CASE WHEN weekday >= 6 THEN 'weekend' WHEN carrier = 'B6' THEN 'B6' ELSE origin END AS part
FROM record
"""


def make_sample(target: Path) -> Project:
    "Run the graph on the sample in a new folder."
    project = copy_project(target)
    if QUERY == "sql/flights.sql":
        (project.root / "sql" / "features.sql").write_text(FLIGHT_COLUMNS)
    trials = {"prior": 1, "linear": 1, "forest": 1, "boosting": 2, "network": 1}
    project.params(
        tables__max_rows=8000,
        model_selection__max_trials=trials,
        model_selection__n_folds=2,
        model_selection__search_rows=2000,
    )
    project.params(importance__surrogate=QUICK)
    project.run("dvc", "repro")
    return project


def sample_folder() -> Path:
    "Where the sample run of exactly these files is kept, so that the next session finds it."
    digest = hashlib.sha256()
    for path in sorted(project_files()):
        digest.update(f"{path}\0".encode() + (ROOT / path).read_bytes())
    for path in sorted((ROOT / "data" / "raw").rglob("*")):
        digest.update(f"{path}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}".encode())
    return ROOT / ".mle" / "tests" / f"sample-{digest.hexdigest()[:16]}"


def keep_sample(project: Project, folder: Path) -> None:
    "Keep a finished sample run, in place of earlier ones."
    for earlier in folder.parent.glob("sample-*"):
        shutil.rmtree(earlier)
    shutil.move(project.root, folder)
