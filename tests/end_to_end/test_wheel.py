"""The wheel in an empty environment, outside any project.

Nothing is there but what the wheel declares, and an artifact.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import raw_files_of_a_shop as raw_files
from projects import ROOT
from scored_tables import TABLES, invalid_visits, same, write

from mle_project.artifact.predictor import Predictor
from mle_project.scoring.batch import score_file

ABSENT = (
    "nbdev",
    "dvc",
    "jupyterlab",
    "papermill",
    "tensorflow",
    "keras",
    "keras_tuner",
    "sklearn",
    "joblib",
    "ibis",
    "bentoml",
)


class Elsewhere:
    """An environment with the wheel in it, and an empty folder to work in."""

    def __init__(self, venv: Path, folder: Path) -> None:
        self.bin = venv / "bin"
        self.folder = folder

    def run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs."""
        hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME", "MLE_STAGING")
        env = {k: v for k, v in os.environ.items() if k not in hidden} | {
            "PATH": f"{self.bin}:/usr/bin:/bin"
        }
        program, *words = command
        line = [self.bin / str(program), *map(str, words)]
        process = subprocess.run(
            line, cwd=self.folder, env=env, capture_output=True, text=True, timeout=300
        )
        assert not check or process.returncode == 0, (
            f"{command} ended with {process.returncode}:\n{process.stdout}{process.stderr}"
        )
        return process


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy so that the clone keeps no traces of it."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(
        ROOT / "mle_project", source / "mle_project", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        "dist",
        ".",
    ]
    subprocess.run(command, cwd=source, check=True)
    [wheel_file] = (source / "dist").glob("*.whl")
    return wheel_file


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory) -> Elsewhere:
    """A new environment with the wheel and what it declares, in the versions of the lock file."""
    place = tmp_path_factory.mktemp("elsewhere")
    pins = re.findall(
        r"^([a-z0-9][^ ;]*==[^ ;]+)", (ROOT / "requirements" / "dev.txt").read_text(), flags=re.M
    )
    (place / "constraints.txt").write_text("\n".join(pins) + "\n")
    venv = place / "venv"
    folder = place / "work"
    folder.mkdir()
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True, cwd=place)
    install = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        venv / "bin" / "python",
        "-c",
        place / "constraints.txt",
        wheel,
    ]
    subprocess.run(install, check=True, cwd=place)
    return Elsewhere(venv, folder)


def test_the_templates_are_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {path.name for path in (ROOT / "mle_project" / "templates").iterdir()} == {
        name.rpartition("/")[2] for name in names if name.startswith("mle_project/templates/")
    }


def test_what_development_needs_is_not_there(elsewhere):
    code = "import sys, importlib.util as u; print([*filter(u.find_spec, sys.argv[1:])])"
    assert elsewhere.run("python", "-c", code, *ABSENT).stdout.strip() == "[]"
    where = elsewhere.run("python", "-c", "import mle_project; print(mle_project.__file__)").stdout
    assert where.startswith(str(elsewhere.bin.parent)) and str(ROOT) not in where


def test_the_bar_of_a_terminal_is_declared(elsewhere):
    """It is imported on terminals only, so no other test here would miss it."""
    elsewhere.run("python", "-c", "import tqdm")


def test_the_commands_help_themselves(elsewhere):
    output = elsewhere.run("mle", "--help").stdout
    assert "score" in output and "check" in output
    words = elsewhere.run("mle", "score", "--help").stdout
    assert all(
        option in words for option in ("--model", "--engine", "--chunk-size", "--rejects", "--json")
    )


@pytest.mark.parametrize(
    ("table", "family"),
    [("visits", "linear"), ("visits", "network"), ("plants", "boosting"), ("houses", "linear")],
)
def test_a_file_is_scored_with_the_projects_bits(table, family, elsewhere, models, tmp_path):
    _, frame = TABLES[table]()
    model = shutil.copytree(models(table, family), tmp_path / "model")
    score_file(write(frame, tmp_path / "in.parquet"), tmp_path / "here.parquet", Predictor(model))
    expected = pd.read_parquet(tmp_path / "here.parquet")
    for source in ("in.parquet", "in.csv", "in.jsonl"):
        write(frame, tmp_path / source)
        process = elsewhere.run(
            "mle",
            "score",
            tmp_path / source,
            tmp_path / "there.parquet",
            "--model",
            model,
            "--chunk-size",
            70,
            "--json",
        )
        result = json.loads(process.stdout)
        assert (result["rows"], result["scored"], result["rejected"], result["model"]) == (
            900,
            900,
            0,
            Predictor(model).digest,
        )
        assert same(expected, pd.read_parquet(tmp_path / "there.parquet")), source


def test_broken_rows_and_exit_codes(elsewhere, models, tmp_path):
    model = models("visits", "prior")
    source = write(invalid_visits(), tmp_path / "in.csv")
    target = tmp_path / "out.csv"
    aside = tmp_path / "rejects.jsonl"
    rejected = elsewhere.run("mle", "score", source, target, "--model", model, check=False)
    assert (
        rejected.returncode == 1
        and rejected.stderr.startswith("error: in.csv breaks the model's contract.yaml")
        and not target.exists()
    )
    process = elsewhere.run(
        "mle", "score", source, target, "--model", model, "--rejects", aside, check=False
    )
    assert (
        process.returncode == 3
        and "897 rows" in process.stdout
        and "rejects.jsonl" in process.stdout
    )
    assert len(aside.read_text().splitlines()) == 4 and len(pd.read_csv(target)) == 897
    fine = elsewhere.run(
        "mle",
        "score",
        write(TABLES["visits"]()[1], tmp_path / "in.parquet"),
        target,
        "--model",
        model,
    )
    assert "900 rows" in fine.stdout and Predictor(model).digest[:12] in fine.stdout


def test_raw_files_are_scored(elsewhere, tmp_path):
    "With what the model carries: neither the project nor its sources are there."
    raw = raw_files.raw_visits(300).assign(door=lambda frame: frame["door"].str[:1])
    (tmp_path / "shop").mkdir()
    shop = raw_files.Shop(tmp_path / "shop", raw_files.JOINED, raw)
    source = tmp_path / "new.csv"
    raw.drop(columns="back").to_csv(source, index=False, sep=";", encoding="cp1252")
    target = tmp_path / "out.parquet"
    done = elsewhere.run("mle", "score", source, target, "--model", shop.model)
    assert "in the form of the source `visits`" in done.stderr
    assert pd.read_parquet(target)["probability"].tolist() == shop.expected.tolist()


def test_errors_are_sentences(elsewhere, models, tmp_path):
    source = write(TABLES["visits"]()[1], tmp_path / "in.parquet")
    model = models("visits", "prior")
    cases = {
        ("score", source, tmp_path / "out.csv", "--model", tmp_path): "there is no model in",
        ("score", source, tmp_path / "out.csv"): "is not inside a project|there is no model in",
        (
            "score",
            tmp_path / "gone.csv",
            tmp_path / "out.csv",
            "--model",
            model,
        ): "gone.csv does not exist",
        (
            "score",
            source,
            tmp_path / "out.parquet",
            "--model",
            model,
            "--engine",
            "pyspark",
        ): "PySpark is not installed",
        ("summary",): "is not inside a project",
    }
    for words, message in cases.items():
        process = elsewhere.run("mle", *words, check=False)
        assert (
            process.returncode == 1
            and process.stderr.startswith("error: ")
            and re.search(message, process.stderr)
        ), (words, process.stderr)
        assert "Traceback" not in process.stderr


def test_what_needs_the_projects_environment_says_so(elsewhere, models):
    model = models("visits", "prior")
    for words in (
        ("explain", model / "example.json", "--model", model),
        ("clean", "--check", model / "example.json"),
    ):
        process = elsewhere.run("mle", *words, check=False)
        pattern = (
            rf"error: mle {words[0]} needs the package \w+, which is not installed here, "
            r".*`make env` in a clone.*mle score and mle check.\n"
        )
        assert process.returncode == 1 and re.fullmatch(pattern, process.stderr), process.stderr


def test_a_file_is_checked(elsewhere, models, tmp_path):
    contract = models("visits", "prior") / "contract.yaml"
    fine = elsewhere.run(
        "mle",
        "check",
        write(TABLES["visits"]()[1], tmp_path / "in.parquet"),
        "--contract",
        contract,
    )
    assert "900 rows keep the contract" in fine.stdout
    rejected = elsewhere.run(
        "mle",
        "check",
        write(invalid_visits(), tmp_path / "in.csv"),
        "--contract",
        contract,
        check=False,
    )
    assert rejected.returncode == 1 and "is between 0 and 600" in rejected.stdout
