"""A stage is read once before its run and once after it, and what changed in between is noticed."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mle_project.core.contract import EXAMPLE
from mle_project.core.project import ProjectError
from mle_project.pipeline.runner import check_inputs, check_unchanged
from mle_project.pipeline.stage import Stage, read_stage
from mle_project.pipeline.stage_code import CODE_DIR, FACTS, plain_facts, stage_code

PARAMS = "work: {rows: 5, folder: out}\nother: {seed: 0}\n"
DVC = """stages:
  work:
    cmd: mle run work
    deps: [reports/code/contract.yaml, reports/code/features.sql, data.csv, table]
    params: [work, other.seed]
    outs: ["${work.folder}/model"]
    metrics: [{metrics.json: {cache: false}}]
"""
PARAMETERS = "rows = 1  # type: PositiveInt - of the table\nfolder = 'x'  # type: str"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the stage `work`, whose code is written down; commands run in its folder."""
    files = {
        "params.yaml": PARAMS,
        "dvc.yaml": DVC,
        "data.csv": "a,b\n",
        "table/part.csv": "1,2\n",
        "mle_project/__init__.py": "",
        "contract.yaml": EXAMPLE,
        "sql/features.sql": "SELECT *, minutes / items AS pace\nFROM record\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    cells = [nbformat.v4.new_markdown_cell("# Work"), nbformat.v4.new_code_cell(PARAMETERS)]
    cells[1].metadata["tags"] = ["parameters"]
    (tmp_path / "nbs").mkdir()
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(notebook, tmp_path / "nbs" / "01_work.ipynb")
    monkeypatch.chdir(tmp_path)
    write_code(tmp_path)
    return tmp_path


def write_code(project: Path) -> None:
    """Write down the code of the stage, as the stage `export` does."""
    (project / CODE_DIR).mkdir(parents=True, exist_ok=True)
    (project / CODE_DIR / "work.py").write_text(stage_code("work"))
    for name, text in plain_facts([f"{CODE_DIR}/{name}" for name in FACTS]).items():
        (project / CODE_DIR / name).write_text(text)


def replace(path: Path, old: str, new: str) -> None:
    """Replace a text that a file has once."""
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


def rejection(before: Stage) -> str:
    """The message of the check after a run; empty when it passes."""
    try:
        check_unchanged(before, read_stage("work"))
    except ProjectError as error:
        return str(error)
    return ""


def test_a_stage_knows_its_paths_values_and_inputs(project):
    stage = read_stage("work")
    assert stage.outs == ["out/model", "metrics.json"]
    assert stage.values == {"work": {"rows": 5, "folder": "out"}, "other.seed": 0}
    facts = [f"{CODE_DIR}/{name}" for name in FACTS]
    assert list(stage.inputs) == [*facts, "data.csv", "table/part.csv"]
    assert stage.types == {"rows": "PositiveInt", "folder": "str"}


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("nbs/01_work.ipynb", "rows = 1 ", "rows = 2 ", "the code of stage `work` changed"),
        ("params.yaml", "rows: 5", "rows: 6", "changed while it ran"),
        ("params.yaml", "seed: 0", "seed: 1", "changed while it ran"),
        ("dvc.yaml", ", data.csv, table]", ", data.csv]", "changed while it ran"),
        ("dvc.yaml", "/model", "/models", "changed while it ran"),
        ("data.csv", "a,b", "a,c", "changed while it ran"),
        ("table/part.csv", "1,2", "1,3", "changed while it ran"),
        ("contract.yaml", "[0, 600]", "[0, 700]", "contract.yaml changed after"),
        ("sql/features.sql", "minutes / items", "items / minutes", "features.sql changed after"),
    ],
)
def test_what_changes_while_a_stage_runs_is_noticed(file, old, new, words, project):
    before = read_stage("work")
    assert rejection(before) == ""
    replace(project / file, old, new)
    message = rejection(before)
    assert words in message and "nothing was recorded" in message


def test_code_written_down_again_while_a_stage_runs_is_noticed(project):
    before = read_stage("work")
    replace(project / "nbs" / "01_work.ipynb", "rows = 1 ", "rows = 2 ")
    write_code(project)
    assert "changed while it ran" in rejection(before)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("nbs/01_work.ipynb", "# Work", "# More"),
        ("nbs/01_work.ipynb", "of the table", "of all tables"),
        ("contract.yaml", "Way in.", "The door."),
        ("contract.yaml", "unit: minutes", "unit: min"),
        ("contract.yaml", "task: binary", "task: binary  # a comment"),
        ("sql/features.sql", "pace", "pace -- of a visitor"),
    ],
)
def test_prose_may_change_while_a_stage_runs(file, old, new, project):
    before = read_stage("work")
    replace(project / file, old, new)
    assert rejection(before) == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("params.yaml", "work:", "works:", "params.yaml has no section `work`. It has: works, "),
        ("params.yaml", "rows: 5", "rows: 0", "section `work`: `rows` is 0"),
        ("params.yaml", "rows: 5", "row: 5", "`row` is not a parameter of the notebook; `rows` is"),
        ("params.yaml", "seed: 0", "seeds: 0", "dvc.yaml names other.seed, which params.yaml does"),
        ("dvc.yaml", "  work:", "  works:", "dvc.yaml has no stage `work`. It has: works."),
        ("dvc.yaml", "work.folder", "work.file", "dvc.yaml names work.file, which params.yaml"),
        ("nbs/01_work.ipynb", '"parameters"', '"other"', "exactly one cell with the tag"),
        ("nbs/01_work.ipynb", "rows = 1 ", "rows = ", "code cell 1, line 1: .* Correct the cell."),
    ],
)
def test_files_that_do_not_fit_together_are_rejected(file, old, new, words, project):
    replace(project / file, old, new)
    with pytest.raises(ProjectError, match=words):
        read_stage("work")


def test_an_input_that_is_not_what_was_recorded_is_rejected(project):
    output = "{path: table, md5: 0a.dir}"
    (project / "dvc.lock").write_text(f"stages: {{before: {{outs: [{output}]}}}}\n")
    with pytest.raises(ProjectError, match="^table is not what stage `before` wrote .*--repair"):
        check_inputs(read_stage("work"))


def test_each_file_is_read_once(project):
    program = """
import collections, json, os, sys
from mle_project.pipeline.stage import read_stage
read_stage("work")
counts = collections.Counter()
def count(event, arguments):
    if event == "open" and str(arguments[0]).startswith(os.getcwd()):
        counts[os.path.relpath(arguments[0])] += 1
sys.addaudithook(count)
read_stage("work")
print(json.dumps(counts))
"""
    command = [sys.executable, "-P", "-c", program]
    process = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    counts = json.loads(process.stdout)
    for name in ("params.yaml", "dvc.yaml", "nbs/01_work.ipynb", "data.csv", "table/part.csv"):
        assert counts[name] == 1, (name, counts)
