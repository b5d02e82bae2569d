"""The same commit gives the same bytes.

Under other settings, on one processor, and rebuilt from a model's digest.
"""

import json
import os

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from projects import Project

from mle_project.pipeline.compare import compare
from mle_project.pipeline.lockfile import lock_entries
from mle_project.pipeline.provenance import rebuild_model
from mle_project.pipeline.reproducibility import perturbed_environments, run_graph


def commit(project: Project, message: str = "run") -> str:
    project.run("git", "add", "-A")
    project.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", message
    )
    return project.run("git", "rev-parse", "HEAD").stdout.strip()


def test_a_model_is_made_again_and_every_output_with_it(changeable, tmp_path, monkeypatch):
    """`mle rebuild` under other settings and on one processor.

    Then the other stages in the same clone.
    """
    commit(changeable)
    other = perturbed_environments()[1]
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(changeable.root)
    model = json.loads((changeable.root / "metrics" / "model.json").read_text())["model"]
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        (tmp_path / "work").mkdir()
        result = rebuild_model(model[:8], tmp_path / "work")
        assert result["equal"] and result["rebuilt"] == model and result["differences"] == []
        rebuilt = tmp_path / "work" / "rebuilt"
        run_graph(rebuilt, other)
    finally:
        os.sched_setaffinity(0, allowed)
    outputs = lock_entries((changeable.root / "dvc.lock").read_text())
    assert compare(changeable.root, rebuilt, list(outputs)) == []
    assert lock_entries((rebuilt / "dvc.lock").read_text()) == outputs and len(outputs) > 20
    assert (rebuilt / "dvc.lock").read_bytes() == (changeable.root / "dvc.lock").read_bytes()


def test_where_a_model_comes_from(changeable):
    commit_id = commit(changeable)
    scores = json.loads((changeable.root / "metrics" / "final_model.json").read_text())
    metrics = changeable.root / "metrics" / "model.json"
    metrics_file = json.loads(metrics.read_text())
    metrics.write_text(json.dumps({"model": "f" * 64}))
    other = commit(changeable, "a run of which half was committed")
    facts = json.loads(changeable.run("mle", "why", metrics_file["model"][:8], "--json").stdout)
    params = facts["params"]
    sources = json.loads((changeable.root / "data" / "sources.json").read_text())
    assert (facts["model"], facts["commit"], facts["recorded"]) == (
        metrics_file["model"],
        commit_id,
        True,
    )
    assert facts["notebook"] == "nbs/07_final_model.ipynb" and facts["environment"]["same_as_now"]
    assert (
        params["tables"]["max_rows"] == 8000
        and params["model_selection"]["n_folds"] == 2
        and params["final_model"]["seed"] == 0
    )
    assert (
        facts["sources"] == {name: one["digest"] for name, one in sources.items()}
        and "data/tables" in facts["data"]
    )
    assert facts["test"] == scores["test"]
    output = changeable.run("mle", "why", "f" * 8).stdout
    assert other[:12] in output and "dvc.lock of that commit is of another run" in output
    unknown = changeable.run("mle", "why", "0123456789", check=False)
    assert (
        unknown.returncode == 1
        and "no commit of this clone made the model 0123456789" in unknown.stdout
    )
    metrics.write_text(json.dumps(metrics_file | {"model": "e" * 64}))
    assert "not committed yet" in changeable.run("mle", "why", "e" * 64).stdout


def damaged_table(path):
    table = pq.read_table(path)
    name = next(field.name for field in table.schema if pa.types.is_floating(field.type))
    values = table[name].to_pylist()
    row = next(k for k, value in enumerate(values) if value)
    values[row] *= 1 + 1e-7
    where = table.column_names.index(name)
    pq.write_table(
        table.set_column(
            where, table.schema.field(where), pa.array(values, table.schema.field(where).type)
        ),
        path,
    )
    return f"column {name}, row {row}"


def damaged_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    cell = next(
        k for k, cell in enumerate(notebook.cells) if cell.outputs and "text" in cell.outputs[0]
    )
    notebook.cells[cell].outputs[0].text += "at 0x7f0123456789"
    nbformat.write(notebook, path)
    return f"cell {cell}, outputs[0].text["


def damaged_text(path):
    path.write_text(path.read_text() + "made on 2020-01-01\n")
    return "how many lines"


def damaged_json(path):
    content = json.loads(path.read_text())
    content["test"][next(iter(content["test"]))] += 1e-12
    path.write_text(json.dumps(content, indent=2) + "\n")
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
        ("data/tables/test.parquet", damaged_table),
        ("reports/eda.ipynb", damaged_notebook),
        ("models/final/card.md", damaged_text),
        ("metrics/final_model.json", damaged_json),
        ("models/final/model.onnx", damaged_onnx),
    ],
)
def test_a_difference_is_located(name, damage, sample, changeable):
    place = damage(changeable.root / name)
    (difference,) = compare(
        sample.root, changeable.root, list(lock_entries((sample.root / "dvc.lock").read_text()))
    )
    assert (
        difference.file == name
        and place in difference.location
        and "Likely cause" in str(difference)
    ), str(difference)


def test_the_commands_say_when_a_project_has_not_run(changeable):
    (changeable.root / "dvc.lock").unlink()
    process = changeable.run("mle", "verify", check=False)
    assert process.returncode == 1 and "There is no dvc.lock yet" in process.stdout
