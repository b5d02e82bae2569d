"""How code is written, in notebooks, package and tests: one thing a line, one kind a name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FOLDERS = ("mle_project", "tests", "benchmarks", "deploy")
NOTEBOOKS = sorted(
    path
    for path in (ROOT / "nbs").rglob("*.ipynb")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
SCRIPTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
FILES = [*NOTEBOOKS, *(path for path in SCRIPTS if path.name != "_modidx.py")]


def code_cells(path: Path) -> list[str]:
    """The code of a file: a notebook's cells with magics made empty lines, a script as one cell."""
    if path.suffix == ".py":
        return [path.read_text()]
    cells = nbformat.read(path, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    return [re.sub(r"(?m)^[%!].*$", "", source) for source in sources]


def inner_nodes(node: ast.AST, kinds: tuple[type, ...]) -> Iterator[ast.AST]:
    """Nodes of some kinds below a node, not counting itself."""
    return (child for child in ast.walk(node) if child is not node and isinstance(child, kinds))


def is_packed(node: ast.AST) -> bool:
    """Whether a statement gives several names values that are computed apart; a swap is none."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    target = node.targets[0]
    if not isinstance(target, ast.Tuple):
        return False
    names = {ast.unparse(part) for part in target.elts}
    return names != {ast.unparse(part) for part in node.value.elts}


def faults(source: str) -> list[str]:
    """What is wrong in the code, each with its line."""
    messages = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, COMPREHENSIONS) and any(inner_nodes(node, COMPREHENSIONS)):
            messages.append(f"line {line}: a comprehension inside a comprehension")
        if isinstance(node, ast.IfExp) and any(inner_nodes(node, (ast.IfExp,))):
            messages.append(f"line {line}: a conditional inside a conditional")
        if is_packed(node):
            messages.append(f"line {line}: several values assigned in one line")
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            messages.append(f"line {line}: a lambda with a name")
    return messages


def assigned_names(source: str) -> set[str]:
    """The names that the code of a cell gives a value, outside its functions and classes."""
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, *COMPREHENSIONS)
    names = set()
    waiting = list(ast.parse(source).body)
    while waiting:
        node: ast.AST = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if not isinstance(node, scopes):
            waiting += ast.iter_child_nodes(node)
    return names


def reassigned_parameters(path: Path) -> list[str]:
    """Parameters of a stage's notebook that a later cell gives another value."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    parameters: set[str] = set()
    messages = []
    for number, cell in enumerate(cells):
        names = assigned_names(re.sub(r"(?m)^[%!].*$", "", cell.source))
        if "parameters" in cell.metadata.get("tags", []):
            parameters = names
        else:
            messages += [f"cell {number}: `{name}`" for name in sorted(names & parameters)]
    return messages


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_says_one_thing_at_a_time(path):
    messages = []
    for number, source in enumerate(code_cells(path)):
        messages += [f"cell {number}, {fault}" for fault in faults(source)]
    assert not messages, "\n".join(messages)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_parameter_keeps_its_value(path):
    assert reassigned_parameters(path) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("a = [[y for y in x] for x in z]", 1),
        ("a = 1 if b else 2 if c else 3", 1),
        ("a, b = f(), g()", 1),
        ("f = lambda: 1", 1),
        ("a, b = b, a\nc, d = f()\ne = [x for x in z]\ng = 1 if b else 2", 0),
    ],
)
def test_faults_are_found(source, count):
    assert len(faults(source)) == count


def test_a_parameter_with_another_value_is_found(tmp_path):
    cells = [
        nbformat.v4.new_code_cell("rows = 1\nfile = 'a'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "def f(rows):\n    rows = 2\n\n\ntable = [rows for rows in 'ab']"
        ),
        nbformat.v4.new_code_cell("with open(file) as file:\n    pass"),
    ]
    path = tmp_path / "01_work.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert reassigned_parameters(path) == ["cell 2: `file`"]
