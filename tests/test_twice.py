"""The same commit gives the same bytes: under other settings, on one processor, rebuilt from a model's digest."""

import json
import os

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Project

from mle_project.pipeline.compare import compare
from mle_project.pipeline.lockfile import recorded
from mle_project.pipeline.provenance import made_again
from mle_project.pipeline.reproducibility import run_graph, surroundings


def commit(project: Project, message: str = "run") -> str:
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", message)
    return project.run("git", "rev-parse", "HEAD").stdout.strip()


def test_a_model_is_made_again_and_every_output_with_it(changeable, tmp_path, monkeypatch):
    "`mle rebuild` under other settings and on one processor; then the other stages in the same clone."
    commit(changeable)
    other = surroundings()[1]
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(changeable.root)
    model = json.loads((changeable.root / "metrics" / "final_model.json").read_text())["model"]
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        (tmp_path / "work").mkdir()
        found = made_again(model[:8], tmp_path / "work")
        assert found["equal"] and found["made"] == model and found["differences"] == []
        rebuilt = tmp_path / "work" / "rebuilt"
        run_graph(rebuilt, other)
    finally:
        os.sched_setaffinity(0, allowed)
    outputs = recorded((changeable.root / "dvc.lock").read_text())
    assert compare(changeable.root, rebuilt, list(outputs)) == []
    assert recorded((rebuilt / "dvc.lock").read_text()) == outputs and len(outputs) > 20
    assert (rebuilt / "dvc.lock").read_bytes() == (changeable.root / "dvc.lock").read_bytes()


def test_where_a_model_comes_from(changeable):
    made = commit(changeable)
    metrics = changeable.root / "metrics" / "final_model.json"
    found = json.loads(metrics.read_text())
    metrics.write_text(json.dumps(found | {"model": "f" * 64}))
    other = commit(changeable, "a run of which half was committed")
    said = json.loads(changeable.run("mle", "why", found["model"][:8], "--json").stdout)
    params, sources = said["params"], json.loads((changeable.root / "data" / "sources.json").read_text())
    assert (said["model"], said["commit"], said["recorded"]) == (found["model"], made, True)
    assert said["notebook"] == "nbs/21_final_model.ipynb" and said["environment"]["same_as_now"]
    assert params["tables"]["rows"] == 8000 and params["model_selection"]["folds"] == 2 and params["final_model"]["seed"] == 0
    assert said["sources"] == {name: one["digest"] for name, one in sources.items()} and "data/tables" in said["data"]
    assert said["test"] == found["test"]
    shown = changeable.run("mle", "why", "f" * 8).stdout
    assert other[:12] in shown and "dvc.lock of that commit is of another run" in shown
    unknown = changeable.run("mle", "why", "0123456789", check=False)
    assert unknown.returncode == 1 and "no commit of this clone made the model 0123456789" in unknown.stdout
    metrics.write_text(json.dumps(found | {"model": "e" * 64}))
    assert "not committed yet" in changeable.run("mle", "why", "e" * 64).stdout


def damaged_table(path):
    table = pq.read_table(path)
    name = next(field.name for field in table.schema if pa.types.is_floating(field.type))
    values = table[name].to_pylist()
    row = next(k for k, value in enumerate(values) if value)
    values[row] *= 1 + 1e-7
    where = table.column_names.index(name)
    pq.write_table(table.set_column(where, table.schema.field(where), pa.array(values, table.schema.field(where).type)), path)
    return f"column {name}, row {row}"


def damaged_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    cell = next(k for k, cell in enumerate(notebook.cells) if cell.outputs and "text" in cell.outputs[0])
    notebook.cells[cell].outputs[0].text += "at 0x7f0123456789"
    nbformat.write(notebook, path)
    return f"cell {cell}, outputs[0].text["


def damaged_text(path):
    path.write_text(path.read_text() + "made on 2020-01-01\n")
    return "how many lines"


def damaged_json(path):
    found = json.loads(path.read_text())
    found["test"][next(iter(found["test"]))] += 1e-12
    path.write_text(json.dumps(found, indent=2) + "\n")
    return "test."


def damaged_onnx(path):
    import onnx

    model = onnx.load(path)
    model.graph.node[0].name = "another"
    onnx.save(model, path)
    return "operation 0"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("data/tables/test.parquet", damaged_table), ("reports/eda.ipynb", damaged_notebook), ("models/final/card.md", damaged_text),
        ("metrics/final_model.json", damaged_json), ("models/final/model.onnx", damaged_onnx),
    ],
)  # fmt: skip
def test_a_difference_is_located(name, damage, sample, changeable):
    place = damage(changeable.root / name)
    (found,) = compare(sample.root, changeable.root, list(recorded((sample.root / "dvc.lock").read_text())))
    assert found.file == name and place in found.place and "Likely cause" in str(found), str(found)


def test_the_commands_say_when_a_project_has_not_run(changeable):
    (changeable.root / "dvc.lock").unlink()
    done = changeable.run("mle", "verify", check=False)
    assert done.returncode == 1 and "there is no dvc.lock yet" in done.stdout
