"""The tiers of tests, one run of the graph on a sample, and models fitted on small tables."""

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from projects import ROOT, Project, keep_sample, linked, make_sample, sample_folder
from tiers import FIRST, SLOW

from mle_project.core.project import DETERMINISTIC_ENV

os.environ["GOMP_SPINCOUNT"] = DETERMINISTIC_ENV["GOMP_SPINCOUNT"]  # before anything loads OpenMP


def file_of(item: pytest.Item) -> str:
    "The file of a test, from tests/ on."
    return item.path.relative_to(ROOT / "tests").as_posix()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "Mark the tests of slow files, and put long files first. Others carry the marker themselves."
    for item in items:
        if file_of(item) in SLOW:
            item.add_marker(pytest.mark.slow)
    order = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(file_of(item), len(order)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    "Print the slowest files: seconds of set-up, calls and teardown, and the tier."
    seconds = Counter[str]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            file = str(getattr(report, "nodeid", "")).split("::")[0].removeprefix("tests/")
            seconds[file] += getattr(report, "duration", 0.0)
    terminalreporter.section("slowest files (tests/README.md says what each is for)")
    for file, total in seconds.most_common(10):
        tier = "test-all" if file in SLOW else "test"
        terminalreporter.write_line(f"{total:8.1f} s  {tier:8}  {file}")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Project:
    "The graph, run once on some thousand real rows. Tests that change it take `changeable`."
    made = sample_folder()
    made.parent.mkdir(parents=True, exist_ok=True)
    with open(made.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker makes it, the others wait
        if not made.exists():
            keep_sample(make_sample(tmp_path_factory.mktemp("made") / "project"), made)
    own = tmp_path_factory.mktemp("sample") / "project"
    shutil.copytree(made, own, symlinks=True, copy_function=linked)
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
