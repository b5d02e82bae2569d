"""A clone's path may hold blanks, quotes and brackets; `make` changes nothing outside the clone."""

import glob
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pandas as pd
import pytest
from projects import ROOT

from mle_project.adopt import csv_dialect
from mle_project.adopt.plan import _paths as named_files
from mle_project.data.engines import load, open_engine
from mle_project.data.sources import local_files

ODD = """Mein "Projekt" [ä] 100% (neu)'s & #1 $HOME"""
# What stands in for the downloads of `make env`: a Python whose environments find the packages of
# this one, and a uv that installs nothing. The folder, its clearing and its checks are real.
PYTHON = """#!{python}
import subprocess, sys
from pathlib import Path
options = ["--without-pip"] if "venv" in sys.argv else []
subprocess.run([{base!r}, *sys.argv[1:], *options], check=True)
if "venv" in sys.argv:
    top = Path(sys.argv[-1])
    (top / "lib" / "python3.11" / "site-packages" / "found.pth").write_text({packages!r})
    for name in ("uv", "jupyter"):
        (top / "bin" / name).write_text('#!/bin/sh\\necho "$0" "$@" >> called.txt\\n')
        (top / "bin" / name).chmod(0o755)
"""


def make(
    folder: Path,  # of the clone
    *words: str,
    **variables: str,  # of the environment
) -> subprocess.CompletedProcess[str]:
    "What `make` does and says there; stderr is in stdout."
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", *words]
    return subprocess.run(
        command,
        cwd=folder,
        env=inherited | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def small_clone(folder: Path) -> Path:
    "The files that `make env` reads, in a new folder."
    for name in (
        "Makefile",
        "dvc.yaml",
        "params.yaml",
        "pyproject.toml",
        "requirements",
        ".jupyter",
        "mle_project",
    ):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    "The Python that stands in."
    path = tmp_path / "python3.11"
    packages = sysconfig.get_path("purelib")
    python = os.path.realpath(sys.executable)  # a line `#!` holds no blank
    path.write_text(PYTHON.format(python=python, base=sys.executable, packages=packages))
    path.chmod(0o755)
    return path


def content(folder: Path) -> dict[str, bytes]:
    "Every file below a folder."
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def neighbours(home: Path) -> dict[str, bytes]:
    "Every file below a folder that is not of the clone `ml`."
    return {name: data for name, data in content(home).items() if "/ml/" not in name}


@pytest.mark.parametrize("name", ["Data Science/ml", f"Data {ODD}/ml"], ids=["blank", "all"])
def test_make_env_leaves_the_neighbours_alone(tmp_path, python, name):
    if ODD in name:
        python = python.rename(tmp_path / ODD)
    clone = small_clone(tmp_path / "home" / name)
    for part in ("Data", "Science", "ml", ".venv"):
        (tmp_path / "home" / part).mkdir()
        (tmp_path / "home" / part / "thesis.txt").write_text(part)
    before = neighbours(tmp_path / "home")
    for _ in range(2):  # the second time there is an environment to clear
        (clone / "Makefile").touch()
        process = make(clone, "env", PYTHON=str(python))
        assert neighbours(tmp_path / "home") == before, process.stdout
        assert process.returncode == 0 and (clone / ".venv" / ".ready").exists(), process.stdout
    script = 'source .venv/bin/activate && printf "%s\\n" "$VIRTUAL_ENV" "$(command -v python)"'
    output = subprocess.run(
        ["bash", "-c", script], cwd=clone, check=True, capture_output=True, text=True
    ).stdout
    assert output.splitlines() == [f"{clone}/.venv", f"{clone}/.venv/bin/python"]
    assert (clone / ".venv" / "lib" / "python3.11" / "site-packages" / "mle_settings.pth").exists()
    assert make(clone, "lab", PYTHON=str(python)).returncode == 0
    commands = (clone / "called.txt").read_text().splitlines()
    assert (
        commands[0].startswith(".venv/bin/uv pip sync")
        and commands[-1] == f"{clone}/.venv/bin/jupyter lab"
    )


def test_make_env_empties_no_folder_that_is_no_environment(tmp_path, python):
    clone = small_clone(tmp_path / "my clone")
    (clone / ".venv").mkdir()
    (clone / ".venv" / "notes.txt").write_text("mine")
    process = make(clone, "env", PYTHON=str(python))
    assert process.returncode != 0 and content(clone / ".venv") == {"notes.txt": b"mine"}
    assert (
        f"{clone}/.venv is no virtual environment" in process.stdout
        and "Move it away" in process.stdout
    )


def test_make_env_follows_no_link_out_of_the_clone(tmp_path, python):
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    before = content(other)
    clone = small_clone(tmp_path / "my clone")
    (clone / ".venv").symlink_to(other)
    process = make(clone, "env", PYTHON=str(python))
    assert process.returncode != 0 and content(other) == before
    assert f".venv is a link to {other}" in process.stdout and "rm .venv" in process.stdout


def test_make_works_in_a_clone_only(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.txt").write_text("mine")
    process = make(tmp_path, "-f", str(ROOT / "Makefile"), "clean")
    assert process.returncode != 0 and content(tmp_path) == {"models/mine.txt": b"mine"}
    assert f"{tmp_path} is not a clone of the project" in process.stdout


@pytest.mark.parametrize("sign", [":", "{", "}", "\\"])
def test_make_rejects_what_other_programs_cannot_take(tmp_path, sign):
    clone = small_clone(tmp_path / f"a{sign}b")
    process = make(clone, "help")
    assert process.returncode != 0 and f"{clone} holds {sign}, which" in process.stdout, (
        process.stdout
    )
    assert "Rename the folder" in process.stdout


@pytest.fixture
def siblings(tmp_path: Path) -> tuple[Path, Path]:
    "A project, and one whose name the project's name matches where it is taken for a pattern."
    folders = tmp_path / "ml [ab] it's year=1", tmp_path / "ml a it's year=1"
    for place, folder in enumerate(folders):
        raw = folder / "data" / "raw"
        raw.mkdir(parents=True)
        frame = pd.DataFrame({"place": [place] * 3, "name": ["x", "y", "z"]})
        frame.to_csv(raw / "t.csv", index=False)
        frame.to_parquet(raw / "t.parquet")
        frame.to_json(raw / "t.jsonl", orient="records", lines=True)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy2(ROOT / name, folder / name)
    return folders


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_source_is_the_file_of_this_project(siblings, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(siblings[0])
    files = local_files("t", {"path": f"data/raw/*.{kind}"}, tmp_path)
    with open_engine("duckdb", 2, tmp_path) as engine:
        load(engine, "t", files, tmp_path)
        table = engine.table("t").execute()
    assert table.to_dict("list") == {"place": [0, 0, 0], "name": ["x", "y", "z"]}


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_adopt_reads_the_file_that_was_named(siblings, kind, tmp_path):
    (path,) = named_files([str(siblings[0] / "data" / "raw" / f"t.{kind}")])
    assert path.is_relative_to(siblings[0])
    with csv_dialect.scratch_database() as (engine, folder):
        csv_dialect.load(engine, csv_dialect.find_source("t", [path], folder)[1], path.name)
        table = engine.sql("SELECT * FROM raw").df()
    assert list(table.columns) == ["place", "name"] and set(table["place"].astype(int)) == {0}
    together = named_files([f"{glob.escape(str(siblings[0]))}/data/raw/*.{kind}"])
    assert together == [path]


def test_folders_of_the_project_may_be_columns(siblings, tmp_path, monkeypatch):
    monkeypatch.chdir(siblings[0])
    part = siblings[0] / "data" / "raw" / "part=7"
    part.mkdir()
    shutil.copy2(siblings[0] / "data" / "raw" / "t.parquet", part)
    files = local_files("t", {"path": "data/raw/part=*/*.parquet"}, tmp_path)
    with open_engine("duckdb", 2, tmp_path) as engine:
        load(engine, "t", files, tmp_path)
        assert set(engine.table("t").execute()["part"]) == {7}
