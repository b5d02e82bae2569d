"""Where git left the marks of a conflict, a sentence names the file, the line and the remedy."""

import pytest
from projects import ROOT

from mle_project.core.project import ProjectError, read_yaml
from mle_project.pipeline.lockfile import lock_entries
from mle_project.pipeline.notebooks import clean_file, read_notebook

MARKS = "<<<<<<< HEAD\n{one}\n=======\n{other}\n>>>>>>> branch\n"


def conflicted(text: str, line: str) -> str:
    "A text in which two branches changed one line."
    assert text.count(line) == 1
    return text.replace(line, MARKS.format(one=line.rstrip("\n"), other=line.rstrip("\n")))


def test_in_a_notebook(tmp_path):
    text = (ROOT / "nbs" / "02_eda.ipynb").read_text()
    line = next(line for line in text.splitlines(keepends=True) if text.count(line) == 1)
    path = tmp_path / "eda.ipynb"
    path.write_text(conflicted(text, line))
    number = path.read_text()[: path.read_text().index("<<<<<<<")].count("\n") + 1
    for read in (read_notebook, clean_file):
        with pytest.raises(ProjectError, match=rf"eda.ipynb: line {number} has git's marks") as one:
            read(path)
        assert "git checkout --ours" in str(one.value) and "mle export" in str(one.value)


def test_in_the_lock(tmp_path):
    text = (ROOT / "dvc.lock").read_text()
    with pytest.raises(ProjectError, match=r"dvc.lock: line 1 .*then `dvc repro`"):
        lock_entries(conflicted(text, text.splitlines(keepends=True)[0]))


def test_in_the_parameters(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(conflicted(text, "importance:\n"))
    with pytest.raises(
        ProjectError, match=r"params.yaml: line \d+ has git's marks .*Keep one side"
    ):
        read_yaml(path)


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    path = tmp_path / "eda.ipynb"
    path.write_text("{")
    with pytest.raises(ProjectError, match=r"eda.ipynb is no notebook: .*git checkout eda.ipynb"):
        read_notebook(path)
