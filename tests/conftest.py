"""A copy of the project in a temporary folder, and one run of the whole graph on a small sample in it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import Project, linked, make_sample

from mle_project.core.project import DETERMINISTIC_ENV

os.environ["GOMP_SPINCOUNT"] = DETERMINISTIC_ENV["GOMP_SPINCOUNT"]  # before anything loads OpenMP


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    "The real graph, run once on some thousand real rows. Tests that change something take `changeable` instead."
    own = tmp_path_factory.mktemp("sample") / "project"
    if worker_id == "master":
        return make_sample(own)
    folder = (
        tmp_path_factory.getbasetemp().parent / "sample"
    )  # the folder of this run, which its workers have in common
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker makes it, the others wait
        if not folder.exists():
            make_sample(own).root.rename(folder)
    shutil.copytree(folder, own, symlinks=True, copy_function=linked)
    return Project(own)


@pytest.fixture
def changeable(sample: Project, tmp_path: Path) -> Project:
    "A copy of the finished sample run, for one test to change."
    target = tmp_path / "project"
    shutil.copytree(sample.root, target, symlinks=True, copy_function=linked)
    return Project(target)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    "The folder of a fitted model for a table and a family; each is made once."
    folders: dict[tuple[str, str], Path] = {}

    def model(table: str, family: str) -> Path:
        from scored_tables import fit_model

        if (table, family) not in folders:
            folder = tmp_path_factory.mktemp("model") / f"{table}-{family}"
            folders[table, family] = fit_model(folder, table, family)
        return folders[table, family]

    return model
