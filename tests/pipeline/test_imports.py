"""What a stage depends on: a literal changed in a module, imported in any form. The rooms' laws."""

import compileall
import json
import shutil
from pathlib import Path

import nbformat
import pytest
from projects import ROOT

from mle_project.core.project import ProjectError
from mle_project.pipeline.imports import ROOMS, import_order_violations, imported_modules
from mle_project.pipeline.stage import declared_paths, input_digests
from mle_project.pipeline.stage_code import stage_code, stage_notebook

DEEP = "mle_project.room.deep"
# what the stage's notebook says -> it reads mle_project/room/deep.py
NOTEBOOK_FORMS = {
    "from a module": "from mle_project.room.deep import f",
    "from a package": "from mle_project.room import deep",
    "from a package, among others": "from mle_project.room import (\n    g as h,\n    deep,\n)",
    "all of a module": "from mle_project.room.deep import *",
    "a module": "import mle_project.room.deep",
    "a module, among others": "import json, mle_project.room.deep",
    "another name": "import mle_project.room.deep as d",
    "in a function": "def f():\n    from mle_project.room.deep import f\n    return f()",
    "in a class": "class A:\n    import mle_project.room.deep as d",
    "where it may fail": (
        "try:\n    from mle_project.room.deep import f\nexcept ImportError:\n    f = None"
    ),
    "by import_module": 'import importlib\nimportlib.import_module("mle_project.room.deep")',
    "by import_module with a package": (
        'from importlib import import_module\nimport_module(".deep", package="mle_project.room")'
    ),
    "by its keyword": (
        "from importlib import import_module\n"
        'import_module(package="mle_project.room", name=".deep")'
    ),
    "by __import__": '__import__("mle_project.room.deep")',
    "by another name of import_module": (
        'from importlib import import_module as load\nload("mle_project.room.deep")'
    ),
    "as a program": (
        'import subprocess, sys\nsubprocess.run([sys.executable, "-m", "mle_project.room.deep"])'
    ),
    "as a program, in one text": 'import os\nos.system("python -m mle_project.room.deep")',
    "as a program of the shell": "!python -m mle_project.room.deep",
    "as a line of a program": (
        'import sys\n[sys.executable, "-c", f"from mle_project.room.deep import f; f({1!r})"]'
    ),
    "as a module in a program": (
        'import sys\n[sys.executable, "-c", "from mle_project.room import g, deep; deep.f()"]'
    ),
    "as the place of a thing": 'path = "mle_project.room.deep.f"',
}
# what the module other/middle.py says, which the notebook imports -> it reads room/deep.py
MODULE_FORMS = {
    "two dots and a path": "from ..room.deep import f",
    "two dots and a package": "from ..room import deep",
    "two dots": "from .. import room\nroom.g",
    "in a function": "def f():\n    from ..room.deep import f\n    return f()",
    "one dot, through a neighbour": "from .near import g",
    "one dot alone, through a neighbour": "from . import near",
    "by import_module": (
        'from importlib import import_module\nimport_module("..room.deep", __package__)'
    ),
    "absolute": "import mle_project.room.deep as d",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two packages in its package and one stage; commands run in its folder."""
    files = {
        "params.yaml": "work: {}\n",
        "dvc.yaml": "stages: {}\n",
        "mle_project/__init__.py": '__version__ = "1"\n',
        "mle_project/top.py": "from .room.deep import f\n",
        "mle_project/room/__init__.py": "g = 1\n",
        "mle_project/room/deep.py": "def f():\n    return 1000\n",
        "mle_project/other/__init__.py": "",
        "mle_project/other/middle.py": "",
        "mle_project/other/near.py": "from ..room.deep import f as g\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_notebook(path: Path, *sources: str) -> None:
    """A notebook with a title and these code cells."""
    cells = [nbformat.v4.new_markdown_cell("# A title"), *map(nbformat.v4.new_code_cell, sources)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def is_stale(project: Path, file: str, old: str, new: str) -> bool:
    """Whether a change of a text in a module changes the code of the stage `work`."""
    before = stage_code("work")
    path = project / "mle_project" / file
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    return stage_code("work") != before


@pytest.mark.parametrize("source", NOTEBOOK_FORMS.values(), ids=NOTEBOOK_FORMS)
def test_a_notebook_that_imports_a_deep_module_becomes_stale(source, project):
    write_notebook(project / "nbs" / "01_work.ipynb", source)
    assert f"# {DEEP}\n" in stage_code("work")
    assert is_stale(project, "room/deep.py", "1000", "1001")


@pytest.mark.parametrize("source", MODULE_FORMS.values(), ids=MODULE_FORMS)
def test_a_module_that_imports_a_deep_module_makes_the_stage_stale(source, project):
    (project / "mle_project" / "other" / "middle.py").write_text(source)
    (project / "mle_project" / "room" / "__init__.py").write_text(
        "g = 1\n" + "from . import deep\n" * source.startswith("from .. import")
    )
    write_notebook(project / "nbs" / "01_work.ipynb", "from mle_project.other.middle import *")
    assert is_stale(project, "room/deep.py", "1000", "1001")


def test_a_module_that_nobody_imports_makes_nothing_stale(project):
    write_notebook(
        project / "nbs" / "01_work.ipynb",
        "from mle_project.other.middle import *\nfrom mle_project.room import g",
    )
    assert not is_stale(project, "room/deep.py", "1000", "1001")


def test_what_the_packages_on_the_way_do_counts(project):
    write_notebook(project / "nbs" / "01_work.ipynb", "import mle_project.other.middle")
    assert is_stale(project, "__init__.py", '"1"', '"2"')
    (project / "mle_project" / "other" / "__init__.py").write_text("from ..room.deep import f\n")
    assert is_stale(project, "room/deep.py", "1000", "1001")


def test_what_a_package_lists_for_a_star_counts(project):
    (project / "mle_project" / "room" / "__init__.py").write_text('__all__ = ["deep"]\n')
    write_notebook(project / "nbs" / "01_work.ipynb", "from mle_project.room import *")
    assert is_stale(project, "room/deep.py", "1000", "1001")


def test_a_package_run_as_a_program_is_its_main_module(project):
    (project / "mle_project" / "room" / "__main__.py").write_text("print(1000)\n")
    write_notebook(
        project / "nbs" / "01_work.ipynb", 'command = ["python", "-m", "mle_project.room"]'
    )
    assert is_stale(project, "room/__main__.py", "1000", "1001")


def test_a_module_beside_the_folders_is_read_as_well(project):
    write_notebook(project / "nbs" / "01_work.ipynb", "from mle_project import top")
    assert imported_modules("from mle_project import top", project / "mle_project") == [
        "mle_project", "mle_project.room", DEEP, "mle_project.top"
    ]  # fmt: skip
    assert is_stale(project, "room/deep.py", "1000", "1001")


@pytest.mark.parametrize(
    "source",
    [
        "from mle_project.room.depe import f",
        "from mle_project.room import depe",
        "from mle_project import depe",
        "import mle_project.room.depe",
        "import mle_project.room.deep.f",
        "from .room import deep",  # a notebook is in no package
        'import importlib\nimportlib.import_module("mle_project.room.depe")',
        'import importlib\nimportlib.import_module(f"mle_project.room.{name}")',
        'import importlib\nimportlib.import_module("mle_project.room." + name)',
        'import importlib\nimportlib.import_module("." + name, package="mle_project.room")',
        '__import__("mle_project.room", fromlist=["deep"])',
        'command = ["python", "-m", "mle_project.room.depe"]',
        'command = ["python", "-c", f"from mle_project.room.depe import f; f({1!r})"]',
        'lines = "--exec_lines=from mle_project.depe import f"',
    ],
)
def test_an_import_of_a_module_that_is_not_there_is_rejected(source, project):
    with pytest.raises(
        ProjectError, match="the notebook: `.*` names a module of the package that is not there. .+"
    ):
        imported_modules(source, project / "mle_project")


@pytest.mark.parametrize(
    "source",
    [
        "from ...room import deep",
        "from .far import f",
        "from .. import depe",
        "import_module(f'{__package__}.{name}')",
    ],
)
def test_a_module_with_such_an_import_is_named(source, project):
    (project / "mle_project" / "other" / "middle.py").write_text(source)
    with pytest.raises(ProjectError, match="^mle_project.other.middle: `.*` names a module"):
        imported_modules("import mle_project.other.middle", project / "mle_project")


def test_the_stage_with_such_an_import_is_named(project):
    write_notebook(project / "nbs" / "01_work.ipynb", "from mle_project.room.depe import f")
    with pytest.raises(
        ProjectError,
        match="^stage `work`, the notebook: `from mle_project.room.depe import f` names a module",
    ):
        stage_code("work")


def test_imports_of_other_packages_are_let_be(project):
    source = (
        "import json\nfrom pandas import depe\nimport mle_project_of_others.x\n"
        "from importlib import import_module\nimport_module(name)"
    )
    assert imported_modules(source, project / "mle_project") == []
    sentence = 'x = "mle_project.toml and a sentence. mle_project.room.depe"'
    assert imported_modules(sentence, project / "mle_project") == [
        "mle_project",
        "mle_project.room",
    ]
    assert imported_modules("x = 'mle_projects'", project / "mle_project") == []


def test_a_stage_has_its_notebook_at_the_top(project):
    write_notebook(project / "nbs" / "api" / "room" / "01_work.ipynb", "1")
    with pytest.raises(
        ProjectError, match="needs exactly one notebook nbs/NN_work.ipynb; there are 0"
    ):
        stage_notebook("work")
    write_notebook(project / "nbs" / "01_work.ipynb", "2")
    assert stage_code("work") == "# work\n# %%\n2\n"


def test_what_python_compiles_is_no_input_of_a_stage(project):
    "A stage may depend on a folder of the package; importing it writes files there."
    (project / "dvc.yaml").write_text(
        "stages: {work: {cmd: mle run work, deps: [mle_project/room]}}\n"
    )
    names = declared_paths("work", "deps")
    before = input_digests(names)
    compileall.compile_dir(project / "mle_project", quiet=1)
    assert list(project.rglob("deep*.pyc")) and input_digests(names) == before
    (project / "mle_project" / "room" / "deep.py").write_text("")
    assert input_digests(names) != before


# The laws of the rooms

MODULES = {  # module -> its number
    "core.base": 0,
    "core.text": 1,
    "data.read": 0,
    "pipeline.run": 0,
    "scoring.batch": 0,
    "serving.app": 0,
    "first": 1,
    "second": 2,
}


@pytest.fixture
def rooms(project: Path) -> Path:
    """A project with rooms whose imports keep the laws."""
    shutil.rmtree(project / "mle_project")
    for name, number in MODULES.items():
        *room, last = name.split(".")
        write_notebook(
            project.joinpath("nbs", *(["api"] * len(room)), *room, f"{number:02}_{last}.ipynb"),
            f"#| default_exp {name}",
        )
        file = project.joinpath("mle_project", *room, f"{last}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        for init in (project / "mle_project" / "__init__.py", file.parent / "__init__.py", file):
            init.write_text("")
    plant(project, "core.text", "from .base import a")
    plant(project, "serving.app", "from ..scoring.batch import a\nfrom .. import core")
    plant(project, "second", "from mle_project.first import a\nfrom mle_project.serving import app")
    assert import_order_violations() == []
    return project


def plant(project: Path, name: str, line: str) -> None:
    """Put an import into a module, and into its notebook as an exported cell."""
    *_, last = name.split(".")
    path = project.joinpath("mle_project", *name.split(".")).with_suffix(".py")
    path.write_text(f"{path.read_text()}\n{line}\n")
    (notebook,) = (project / "nbs").rglob(f"[0-9][0-9]_{last}.ipynb")
    content = nbformat.read(notebook, as_version=4)
    content.cells.append(nbformat.v4.new_code_cell(f"#| export\n{line}"))
    nbformat.write(content, notebook)


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        (
            "core.base",
            "from ..data.read import a",
            "api/core/00_base.ipynb imports mle_project.data.read, a room that is not below it.",
        ),
        (
            "data.read",
            "def f():\n    from .. import serving",
            "api/data/00_read.ipynb imports mle_project.serving, a room that is not below it.",
        ),
        (
            "pipeline.run",
            "from ..scoring import batch",
            "api/pipeline/00_run.ipynb imports mle_project.scoring, a room that is not below it.",
        ),
        (
            "core.base",
            "from . import text",
            "api/core/00_base.ipynb imports mle_project.core.text, which comes later.",
        ),
        (
            "serving.app",
            "from ..first import a",
            (
                "api/serving/00_app.ipynb imports mle_project.first, "
                "a lesson, and no room imports a lesson."
            ),
        ),
        (
            "first",
            "from mle_project.second import a",
            "01_first.ipynb imports mle_project.second, which comes later.",
        ),
    ],
)
def test_a_broken_law_is_said(name, line, fault, rooms):
    plant(rooms, name, line)
    assert f"nbs/{fault}" in import_order_violations()


def test_a_room_that_has_no_place_is_said(rooms):
    (rooms / "mle_project" / "cellar").mkdir()
    (rooms / "mle_project" / "cellar" / "__init__.py").write_text("")
    plant(rooms, "data.read", "from .. import cellar")
    assert any(
        "imports mle_project.cellar, but ROOMS" in fault and "cellar lies" in fault
        for fault in import_order_violations()
    )


def test_the_first_lesson_may_not_import_the_last(tmp_path, monkeypatch):
    for name in ("nbs", "mle_project"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    first, *_, last = sorted((tmp_path / "nbs").glob("[0-9]*.ipynb"))
    content = json.loads(first.read_text())
    content["cells"].append(nbformat.v4.new_code_cell(f"from mle_project.{last.stem[3:]} import x"))
    first.write_text(json.dumps(content))
    assert import_order_violations() == [
        f"nbs/{first.name} imports mle_project.{last.stem[3:]}, which comes later."
    ]


def test_every_room_of_the_package_has_its_place():
    folders = {
        path.name for path in (ROOT / "mle_project").iterdir() if (path / "__init__.py").is_file()
    }
    assert folders <= {room for rooms in ROOMS for room in rooms}
