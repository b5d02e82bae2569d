"""JupyterLab as this environment starts it.

It opens nbs/, and a save strips outputs and exports the module.
"""

import json
import subprocess
import time
import urllib.error
import urllib.request

import nbformat
import pytest
from servers import free_port

from mle_project.core.project import DETERMINISTIC_ENV


@pytest.fixture
def lab(changeable):
    port = free_port()
    options = [
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=t",
        f"--ServerApp.root_dir={changeable.root}",
    ]
    command = ["jupyter", "lab", *options]
    log = changeable.root / ".mle" / "lab.log"
    with open(log, "w") as out:
        process = subprocess.Popen(
            command, cwd=changeable.root, env=changeable.env, stdout=out, stderr=out
        )

    def call(method: str, path: str, body: object = None) -> tuple[str, bytes]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": "token t", "content-type": "application/json"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", data, headers, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.url, answer.read()

    try:
        for _ in range(120):
            assert process.poll() is None, log.read_text()
            try:
                call("GET", "/api")
                break
            except (OSError, urllib.error.URLError):
                time.sleep(0.5)
        yield call
    finally:
        process.terminate()
        process.wait(30)


def test_it_opens_the_notebooks(lab):
    url, page = lab("GET", "/")
    assert url.endswith("/lab/tree/nbs") and b"JupyterLab" in page


def test_saving_strips_outputs_and_exports_the_module(lab, changeable):
    path = changeable.root / "nbs/api/evaluation/00_curves.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="seen")]
            cell.execution_count = 7
    notebook.cells[-1].source += "\n"
    notebook.cells.append(
        nbformat.v4.new_code_cell('#| export\ndef newcomer() -> int:\n    "One."\n    return 1')
    )
    lab(
        "PUT",
        "/api/contents/nbs/api/evaluation/00_curves.ipynb",
        {"type": "notebook", "format": "json", "content": notebook},
    )
    saved = nbformat.read(path, as_version=4)
    assert all(
        not cell.outputs and cell.execution_count is None
        for cell in saved.cells
        if cell.cell_type == "code"
    )
    assert "def newcomer()" in (changeable.root / "mle_project/evaluation/curves.py").read_text()
    assert changeable.run("mle", "clean", "--check").returncode == 0


def test_after_a_save_dvc_status_names_the_stages_that_are_stale(lab, changeable):
    "What stages depend on is written down in the background."
    name = "nbs/api/evaluation/00_curves.ipynb"
    notebook = nbformat.read(changeable.root / name, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.source.startswith("#| export\ndef "))
    cell.source += "\n\n\nNEWCOMER = 1"
    lab("PUT", f"/api/contents/{name}", {"type": "notebook", "format": "json", "content": notebook})
    code = changeable.root / "reports" / "code" / "final_model.py"
    for _ in range(60):
        if "NEWCOMER" in code.read_text():
            break
        time.sleep(0.5)
    output = changeable.run("dvc", "status").stdout
    assert "reports/code/final_model.py" in output and "reports/code/eda.py" not in output


def test_saving_half_a_cell_leaves_the_package_whole(lab, changeable):
    package = changeable.root / "mle_project"
    before = {path: path.read_bytes() for path in package.rglob("*.py")}
    name = "nbs/api/evaluation/00_curves.ipynb"
    notebook = nbformat.read(changeable.root / name, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("#| export\ndef newcomer(a"))
    lab("PUT", f"/api/contents/{name}", {"type": "notebook", "format": "json", "content": notebook})
    assert "def newcomer(a" in (changeable.root / name).read_text()
    assert {path: path.read_bytes() for path in package.rglob("*.py")} == before
    number = sum(cell.cell_type == "code" for cell in notebook.cells)
    fault = f"00_curves.ipynb, code cell {number}, line 2"
    assert fault in (changeable.root / ".mle" / "lab.log").read_text()
    process = changeable.run("dvc", "repro", "export", check=False)
    assert process.returncode and f"error: {fault}" in process.stdout
    assert {path: path.read_bytes() for path in package.rglob("*.py")} == before


def test_a_stage_notebook_runs_as_it_stands(changeable):
    """Top to bottom, with the settings that JupyterLab gives its kernels.

    What the stage wrote is written again, byte for byte.
    """
    metrics = changeable.root / "metrics" / "final_model.json"
    before = metrics.read_bytes()
    metrics.unlink()
    settings = [f"{name}={value}" for name, value in DETERMINISTIC_ENV.items()]
    changeable.run(
        "env",
        *settings,
        "jupyter",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--stdout",
        "nbs/07_final_model.ipynb",
    )
    assert metrics.read_bytes() == before


def test_a_notebook_opened_too_early_says_what_to_type(changeable):
    (changeable.root / "data" / "tables" / "test.parquet").unlink()
    process = changeable.run(
        "jupyter",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--stdout",
        "nbs/07_final_model.ipynb",
        check=False,
    )
    assert process.returncode != 0 and "Make it with `dvc repro tables`" in process.stdout
