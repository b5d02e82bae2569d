"""Mistakes of every kind end with one clear message, and leave earlier outputs as they were."""

import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from projects import CONTRACT, QUERY, ROOT

SOURCE = next(iter(yaml.safe_load((ROOT / "params.yaml").read_text())["tables"]["sources"]))
FEATURE = CONTRACT.features[0]
OUTPUTS = ("data/tables", "models", "metrics", "reports")


def digests(project) -> dict[str, str]:
    "The SHA-256 of every output; not of the code, which the stage `export` may rewrite."
    paths = [
        path
        for name in OUTPUTS
        for path in (project.root / name).rglob("*")
        if path.is_file() and "code" not in path.parts
    ]
    return {
        path.relative_to(project.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def insert(project, notebook: str, source: str) -> None:
    "Put a cell of code before all others."
    path = project.root / "nbs" / notebook
    content = nbformat.read(path, as_version=4)
    content.cells.insert(1, nbformat.v4.new_code_cell(source))
    nbformat.write(content, path)


def processes(project) -> list[int]:
    "The processes that work in the copy."
    running = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(
                project.root
            ):
                running.append(int(entry.name))
        except OSError:
            continue
    return running


def wait_until_stopped(project, seconds: float = 15) -> bool:
    "Whether every process that works in the copy ends within some seconds."
    end = time.monotonic() + seconds
    while processes(project) and time.monotonic() < end:
        time.sleep(0.2)
    return not processes(project)


def misspelt(project):
    project.replace("params.yaml", "threads: 2", "treads: 2")


def mistyped(project):
    project.params(tables__threads="two", tables__max_rows=0)


def no_moments(project):
    project.params(
        tables__split=yaml.safe_load((project.root / "params.yaml").read_text())["tables"]["split"]
        | {"validation": "a", "test": "b"}
    )


def no_source(project):
    project.params(tables__sources={SOURCE: {"path": "data/raw/nothing.csv"}})


def no_column(project):
    (project.root / "data" / "raw" / "less.csv").write_text("hat,shoe\n1,2\n")
    sources = yaml.safe_load((project.root / "params.yaml").read_text())["tables"]["sources"]
    project.params(tables__sources=sources | {SOURCE: {"path": "data/raw/less.csv"}})


def wrap_query(condition: str):
    def change(project):
        path = project.root / QUERY
        path.write_text(
            f"SELECT * FROM (\n{path.read_text().rstrip().rstrip(';')}\n) AS everything WHERE {condition}\n"
        )

    return change


def one_class(project):
    if CONTRACT.task == "regression":
        pytest.skip("a value has no classes")
    target, first = CONTRACT.target, CONTRACT.classes[0]
    wrap_query(f"NOT {target.name}" if target.type == "boolean" else f"{target.name} = '{first}'")(
        project
    )


def out_of_range(project):
    path = project.root / "contract.yaml"
    content = yaml.safe_load(path.read_text())
    content["columns"][FEATURE].pop("categories", None)
    rule = (
        {"categories": ["no such word"]}
        if content["columns"][FEATURE]["type"] == "string"
        else {"range": [1e20, 2e20]}
    )
    kind = "string" if "categories" in rule else "number"
    content["columns"][FEATURE] |= {
        "type": kind,
        "out_of_range": "reject",
        "example": None,
        "nullable": True,
        **rule,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def wrong_contract(project):
    path = project.root / "contract.yaml"
    content = yaml.safe_load(path.read_text())
    content["columns"][FEATURE]["available"] = "after_prediction"
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def raising(project):
    insert(project, "01_tables.ipynb", "numbers = [1, 2]\nnumbers[7]")


def kill_kernel(project):
    insert(project, "01_tables.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")


def no_such_family(project):
    project.params(final_model__family="oracle")


@pytest.mark.parametrize(
    ("stage", "fault", "words"),
    [
        (
            "tables",
            misspelt,
            [
                "params.yaml",
                "section `tables`",
                "`treads` is not a parameter",
                "`threads` is missing",
            ],
        ),
        (
            "tables",
            mistyped,
            [
                "section `tables`: `max_rows` is 0: it should be greater than 0; `threads` is 'two'",
                "01_tables.ipynb",
            ],
        ),
        ("tables", no_moments, ["params.yaml: tables.split: validation and test are"]),
        ("tables", no_source, [f"params.yaml: tables.sources.{SOURCE}", "data/raw/nothing.csv"]),
        ("tables", no_column, [QUERY, SOURCE]),
        ("tables", wrap_query("1 = 0"), [QUERY, "has no rows"]),
        ("tables", one_class, ["one class only", CONTRACT.target.name]),
        ("tables", out_of_range, [FEATURE, "fails in", "rows", "row "]),
        ("tables", wrong_contract, ["contract.yaml:", FEATURE, "only after the prediction"]),
        ("tables", raising, ["01_tables.ipynb", "cell", "IndexError"]),
        ("tables", kill_kernel, ["01_tables.ipynb", "the kernel died"]),
        ("final_model", no_such_family, ["final_model.family", "oracle", "prior"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_mistake_ends_with_one_message(changeable, stage, fault, words):
    before = digests(changeable)
    fault(changeable)
    process = changeable.run("dvc", "repro", stage, check=False, timeout=300)
    message = process.stdout[process.stdout.index("error: ") :]
    assert process.returncode != 0
    assert all(word in message for word in words), message
    assert digests(changeable) == before
    assert wait_until_stopped(changeable)


def test_code_that_changed_behind_dvcs_back_is_not_run(changeable):
    raising(changeable)
    process = changeable.run("mle", "run", "tables", check=False)
    assert (
        process.returncode == 1
        and "Type `dvc repro` again" in process.stdout
        and "nothing was recorded" in process.stdout
    )


def test_a_cell_that_takes_too_long_is_stopped(changeable):
    insert(changeable, "01_tables.ipynb", "import time\ntime.sleep(600)")
    changeable.run("mle", "export")
    process = changeable.run("mle", "run", "tables", "--timeout", "3", check=False, timeout=60)
    assert (
        process.returncode == 1 and "took longer than `mle run --timeout` allows" in process.stdout
    )
    assert wait_until_stopped(changeable)


@pytest.mark.parametrize(
    ("how", "whom"), [(signal.SIGINT, "group"), (signal.SIGTERM, "group"), (signal.SIGKILL, "dvc")]
)
def test_stopped_in_mid_stage(changeable, how, whom):
    "Ctrl-C reaches all processes of the terminal; kill -9 reaches DVC alone. Nothing is left running, nothing is lost."
    insert(
        changeable,
        "01_tables.ipynb",
        "from pathlib import Path\nPath('../started').touch()\nimport time\ntime.sleep(600)",
    )
    before = digests(changeable)
    process = subprocess.Popen(
        ["dvc", "repro", "tables"], cwd=changeable.root, env=changeable.env, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # CI may start its commands with Ctrl-C ignored
    )  # fmt: skip
    end = time.monotonic() + 90
    while not (changeable.root / "started").exists():
        assert time.monotonic() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    (os.killpg if whom == "group" else os.kill)(process.pid, how)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert "was interrupted" in output
    assert wait_until_stopped(changeable)
    assert digests(changeable) == before
