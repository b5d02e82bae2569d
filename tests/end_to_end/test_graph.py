"""The stage graph as a person uses it: dvc repro, status, metrics, plots, experiments."""

import copy
import csv
import io
import json
import re
import time
import tokenize

import nbformat
import pandas as pd
import pytest
import yaml
from projects import CONTRACT, PARAMS, example_only, stages_run

from mle_project.artifact.predictor import Predictor
from mle_project.data.sources import local_files
from mle_project.data.splits import SPLITS
from mle_project.modeling.metrics import METRICS
from mle_project.pipeline.runner import strip_nondeterminism

METRIC = next(iter(METRICS[CONTRACT.task]))
STAGES = [
    "export",
    "fingerprint",
    "tables",
    "eda",
    "model_selection",
    "importance",
    "final_model",
    "card",
    "keras_export",
    "leakage",
    "bento",
    "report",
]


def edit(project, notebook: str, cell_type: str, old: str, new: str) -> None:
    "Replace a text in the one cell of a notebook that has it."
    path = project.root / "nbs" / notebook
    content = nbformat.read(path, as_version=4)
    cells = [cell for cell in content.cells if cell.cell_type == cell_type and old in cell.source]
    assert len(cells) == 1, f"{old!r} stands in {len(cells)} cells of {notebook}"
    cells[0].source = cells[0].source.replace(old, new)
    nbformat.write(content, path)


def whole_numbers(source: str) -> list[tokenize.TokenInfo]:
    "The whole numbers above one in the code of a cell."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    pattern = re.compile(r"[2-9]|[1-9][\d_]+")
    return [
        token
        for token in tokens
        if token.type == tokenize.NUMBER and pattern.fullmatch(token.string)
    ]


def change_number(project, notebook: str) -> None:
    "Add one to the first whole number in the cells that only the stage runs."
    path = project.root / "nbs" / notebook
    content = nbformat.read(path, as_version=4)
    cell = next(
        cell
        for cell in content.cells
        if cell.cell_type == "code"
        and cell.source.startswith("#| eval: false")
        and whole_numbers(cell.source)
    )
    number = whole_numbers(cell.source)[0]
    row, column = number.start
    lines = cell.source.splitlines(keepends=True)
    line = lines[row - 1]
    lines[row - 1] = f"{line[:column]}{int(number.string) + 1}{line[number.end[1] :]}"
    cell.source = "".join(lines)
    nbformat.write(content, path)


def stage_code_of(project, stage: str) -> str:
    "The plain code of a stage as the project has it now."
    return project.run(
        "python",
        "-c",
        f"from mle_project.pipeline.stage_code import stage_code; print(stage_code('{stage}'))",
    ).stdout


def stale(project) -> list[str]:
    "The stages that `dvc repro` would run now."
    return stages_run(project.run("dvc", "repro", "--dry").stdout)


def test_every_stage_leaves_its_report(sample):
    for stage in [name for name in STAGES[2:-1] if name != "card"]:
        executed = nbformat.read(sample.root / "reports" / f"{stage}.ipynb", as_version=4)
        assert [cell.execution_count for cell in executed.cells] == list(
            range(1, len(executed.cells) + 1)
        )
        assert "<html" in (sample.root / "reports" / f"{stage}.html").read_text()[:200].lower()


def test_executed_notebooks_show_plots(sample):
    for stage in ("tables", "eda", "model_selection", "importance", "final_model"):
        executed = nbformat.read(sample.root / "reports" / f"{stage}.ipynb", as_version=4)
        pictures = [
            out
            for cell in executed.cells
            for out in cell.get("outputs", [])
            if "image/png" in out.get("data", {})
        ]
        assert pictures, f"{stage} shows no picture"


def test_a_second_run_does_nothing(sample):
    assert stages_run(sample.run("dvc", "repro").stdout) == []
    assert "up to date" in sample.run("dvc", "status").stdout


def test_rows_without_a_target_are_counted_and_in_no_split(sample):
    tables = sample.root / "data" / "tables"
    counts = json.loads((sample.root / "metrics" / "tables.json").read_text())
    unlabeled = pd.read_parquet(tables / "unlabeled.parquet")
    assert len(unlabeled) == counts["unlabeled"]["rows"]
    assert list(unlabeled) == [name for name in CONTRACT.columns if name != CONTRACT.target.name]
    report = (sample.root / "reports" / "tables.ipynb").read_text()
    assert f"{len(unlabeled):,} unlabeled rows" in report
    splits = [pd.read_parquet(tables / f"{name}.parquet") for name in SPLITS]
    assert sum(map(len, splits)) == sum(counts[name]["rows"] for name in SPLITS) <= 8000
    assert all(split[CONTRACT.target.name].notna().all() for split in splits)
    if keys := CONTRACT.role("id"):
        assert not pd.concat([unlabeled, *splits]).duplicated(keys).any()


@example_only
def test_a_flight_without_an_arrival_is_unlabeled_and_can_be_scored(sample):
    files = local_files("flights", PARAMS["tables"]["sources"]["flights"], sample.root / ".mle")
    delays = pd.read_csv(files.paths[0], usecols=["arr_delay"])["arr_delay"]
    sample.run("mle", "score", "data/tables/unlabeled.parquet", ".mle/answers.parquet")
    answers = pd.read_parquet(sample.root / ".mle" / "answers.parquet")
    assert len(answers) == delays.isna().sum() > 0
    assert answers["probability"].between(0, 1).all()


@example_only
def test_the_model_has_learnt_something(sample):
    metrics = json.loads((sample.root / "metrics" / "final_model.json").read_text())
    prior = metrics["baselines"]["prior"]["test"]
    assert prior["roc_auc"] == 0.5
    assert metrics["test"]["roc_auc"] > 0.65


def test_metrics_and_plots_are_dvcs(sample):
    output = sample.run("dvc", "metrics", "show").stdout
    assert f"test.{METRIC}" in output and "final_model.json" in output
    sample.run("dvc", "metrics", "diff")
    page = sample.run("dvc", "plots", "show", "--out", ".mle/plots")
    assert "index.html" in page.stdout and "failed" not in page.stdout
    assert "on the test split" in (sample.root / ".mle" / "plots" / "index.html").read_text()


def test_summary_names_stages_and_metrics(sample):
    output = sample.run("mle", "summary").stdout
    assert all(
        word in output
        for word in (
            "model_selection",
            METRIC,
            "prior",
            "forest",
            "us per row",
            "reports/final_model.html",
        )
    )


@pytest.mark.slow
def test_prose_runs_no_computation_and_stands_on_todays_page(changeable):
    record = (changeable.root / "reports" / "tables.ipynb").read_bytes()
    edit(
        changeable,
        "01_tables.ipynb",
        "markdown",
        "# Tables",
        "# Tables\n\nA new paragraph, with a comma.",
    )
    edit(changeable, "01_tables.ipynb", "code", "- of the engine;", "- OF THE ENGINE;")
    edit(changeable, "05_model_selection.ipynb", "code", "- how many\n", "- how many there are\n")
    assert stages_run(changeable.run("dvc", "repro").stdout) == ["export", "report"]
    assert "up to date" in changeable.run("dvc", "status").stdout
    page = (changeable.root / "reports" / "tables.html").read_text()
    assert (
        "A new paragraph, with a comma." in page
        and "OF THE ENGINE;" in page
        and "data:image/png" in page
    )
    assert (changeable.root / "reports" / "tables.ipynb").read_bytes() == record


@pytest.mark.slow
def test_what_git_jupyterlab_and_formatters_do_makes_no_stage_stale(changeable):
    """Executed and saved elsewhere, other ids, reformatted, cloned through the hooks.

    The code is the same.
    """
    for path in sorted((changeable.root / "nbs").rglob("*.ipynb")):
        content = nbformat.read(path, as_version=4)
        for number, cell in enumerate(content.cells):
            cell["id"] = f"other-{number}"
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("stream", text="seen")]
                cell.execution_count = number + 1
                cell.metadata["collapsed"] = True
                cell.source += "\n\n# the end"
        content.metadata["language_info"] = {"name": "python", "version": "3.11.0"}
        nbformat.write(content, path)
    edit(
        changeable,
        "01_tables.ipynb",
        "code",
        "read_contract(",
        "(read_contract)( ",
    )
    elsewhere = changeable.root.parent / "elsewhere"
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "core.hooksPath=.githooks"]
    changeable.run("git", "add", "-A")
    changeable.run("git", *who, "commit", "-qm", "saved")
    changeable.run("git", "clone", "-q", str(changeable.root), str(elsewhere))
    for name in ("01_tables.ipynb", "07_final_model.ipynb"):
        assert '"seen"' not in (elsewhere / "nbs" / name).read_text()
        (changeable.root / "nbs" / name).write_text((elsewhere / "nbs" / name).read_text())
    # Nothing is computed again. The bento packs the modules as they are written, with comments.
    assert stages_run(changeable.run("dvc", "repro").stdout) == ["export", "bento", "report"]


def test_nothing_that_a_stage_recorded_has_words_of_the_contract(sample):
    "New words run no stage again, so what stages record must not depend on them."
    texts = [column.description for column in CONTRACT.columns.values()]
    recorded = [*(sample.root / "reports").glob("*.ipynb"), *(sample.root / "metrics").iterdir()]
    recorded += [path for path in (sample.root / "models" / "fitted").iterdir()]
    recorded += [path for path in (sample.root / "models" / "keras").rglob("*") if path.is_file()]
    for path in recorded:
        content = path.read_bytes()
        assert [text for text in texts if text.encode() in content] == [], path
    card = (sample.root / "models" / "final" / "card.md").read_text()
    assert CONTRACT.target.description in card


@pytest.mark.slow
def test_words_of_the_contract_fit_no_model_again_and_stand_on_todays_pages(changeable):
    "A description, a unit and comments; a fact makes what depends on it stale."
    path = changeable.root / "contract.yaml"
    text = path.read_text()
    target = CONTRACT.target
    path.write_text(
        text.replace(target.description, "Whether it was seen by the bird.", 1)
        .replace(CONTRACT.description, "One feather of the bird", 1)
        .replace("unit: ", "unit: more ")
        + "# a comment\n"
    )
    with (changeable.root / "sql" / "features.sql").open("a") as file:
        file.write("-- a comment\n")
    fitted = (changeable.root / "models" / "fitted" / "manifest.json").read_bytes()
    names = stages_run(changeable.run("dvc", "repro").stdout)
    assert names == ["export", "card", "bento", "report"]
    assert (changeable.root / "models" / "fitted" / "manifest.json").read_bytes() == fitted
    for page in ("models/final/card.md", "models/final/card.html", "reports/eda.html"):
        assert "One feather of the bird" in (changeable.root / page).read_text(), page
    assert "seen by the bird" in (changeable.root / "models" / "final" / "card.md").read_text()
    predictor = Predictor(changeable.root / "models" / "final")
    assert predictor.contract.target.description == "Whether it was seen by the bird."
    name = next(name for name in CONTRACT.features if not CONTRACT.columns[name].nullable)
    content = yaml.safe_load(path.read_text())
    content["columns"][name]["nullable"] = True
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    changeable.run("dvc", "repro", "export")
    assert stale(changeable)[:3] == ["tables", "eda", "model_selection"]


@pytest.mark.slow
def test_what_a_reader_sees_of_a_cell_is_code(changeable):
    """The last value of a cell is shown, so a cell cut in two shows another.

    A semicolon silences it.
    """
    before = stage_code_of(changeable, "eda")
    path = changeable.root / "nbs" / "02_eda.ipynb"
    content = nbformat.read(path, as_version=4)
    content.cells[-1].source += ";"
    nbformat.write(content, path)
    assert stage_code_of(changeable, "eda") != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("notebook", "expected"),
    [
        ("10_bento.ipynb", ["bento", "leakage", "report"]),
        ("07_final_model.ipynb", ["final_model", "card", "leakage", "bento", "report"]),
        (
            "06_importance.ipynb",
            ["importance", "final_model", "card", "leakage", "bento", "report"],
        ),
        ("05_model_selection.ipynb", STAGES[4:]),
    ],
)
def test_one_literal_makes_the_right_stages_stale(changeable, notebook, expected):
    "And `leakage`, which reads the code of every stage."
    change_number(changeable, notebook)
    changeable.run("dvc", "repro", "export")
    output = changeable.run("dvc", "status").stdout
    first = expected[0]
    assert [stage for stage in STAGES if f"reports/code/{stage}.py" in output] == [first]
    assert first in stale(changeable) and set(stale(changeable)) <= set(expected)


@pytest.mark.slow
def test_an_experiment_changes_one_parameter(changeable):
    before = json.loads((changeable.root / "metrics" / "final_model.json").read_text())
    changeable.run("git", "add", "-A")
    changeable.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "run"
    )
    process = changeable.run("dvc", "exp", "run", "-S", "final_model.family=linear", "final_model")
    after = json.loads((changeable.root / "metrics" / "final_model.json").read_text())
    assert stages_run(process.stdout)[-1] == "final_model" and "model_selection" not in stages_run(
        process.stdout
    )
    assert before["fitted"] != after["fitted"] and after["family"] == "linear"
    assert "final_model.json" in changeable.run("dvc", "metrics", "diff").stdout
    table = changeable.run("mle", "experiments").stdout
    assert "final_model.family" in table and METRIC in table and "linear" in table
    assert "eda.seed" not in table
    back = changeable.run("dvc", "exp", "run", "-S", "final_model.family=null", "final_model")
    assert "final_model ran before with these inputs" in back.stdout
    assert json.loads((changeable.root / "metrics" / "final_model.json").read_text()) == before
    assert "up to date" in changeable.run("dvc", "status", "final_model").stdout
    forced = changeable.run("dvc", "repro", "-f", "-s", "final_model").stdout
    assert "ran before" not in forced and "What was chosen" in forced
    runs = {
        row["rev"]: row
        for row in csv.DictReader(io.StringIO(changeable.run("dvc", "exp", "show", "--csv").stdout))
        if row["rev"] != "workspace"
    }
    main = runs.pop("HEAD" if "HEAD" in runs else next(iter(runs)))
    families = sorted(one["final_model.family"] for one in runs.values())
    assert families == [main["final_model.family"], "linear"]  # there, and back again


@pytest.mark.slow
def test_an_experiment_in_a_temporary_folder_and_one_in_the_queue_end(changeable):
    "DVC runs both below `.dvc/tmp`, a folder that BentoML does not read."
    changeable.run("git", "add", "-A")
    changeable.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "run"
    )
    bento = ("--single-item", "--force", "bento")
    process = changeable.run("dvc", "exp", "run", "--temp", "-S", "leakage.max_psi=0.31", *bento)
    assert stages_run(process.stdout) == ["bento"] and "Ran experiment" in process.stdout
    changeable.run("dvc", "exp", "run", "--queue", "-S", "leakage.max_psi=0.32", *bento)
    changeable.run("dvc", "queue", "start")
    deadline = time.monotonic() + 300
    status = ""
    while "Success" not in status and "Failed" not in status and time.monotonic() < deadline:
        time.sleep(2)
        status = changeable.run("dvc", "queue", "status").stdout
    assert "Success" in status, status


def test_a_report_does_not_depend_on_when_something_was_printed_beside():
    "Printed text is cut where a warning falls in between, which differs from run to run."
    words = [
        nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("one\n", "two\n")
    ]
    warning = nbformat.v4.new_output("stream", name="stderr", text="careful\n")
    reports = []
    for outputs in ([*words, warning], [words[0], warning, words[1]]):
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell("x", outputs=copy.deepcopy(outputs))]
        )
        strip_nondeterminism(notebook)
        reports.append(nbformat.writes(notebook))
    assert reports[0] == reports[1] and reports[0].count("one") == 1


@pytest.mark.slow
def test_a_source_that_dvc_cannot_watch_is_asked_each_time(changeable):
    "Here a file outside of data/raw; a database or a store is asked in the same way."
    outside = changeable.root.parent / "outside.csv"
    outside.write_text("a,b\n1,2\n")
    changeable.params(
        tables__sources=PARAMS["tables"]["sources"] | {"outside": {"path": "../outside.csv"}}
    )
    rejected = changeable.run("dvc", "repro", "tables", check=False)
    assert (
        rejected.returncode != 0
        and "Add `always_changed: true` to the stage `fingerprint` of dvc.yaml" in rejected.stdout
    )
    changeable.replace(
        "dvc.yaml",
        "    cmd: mle fingerprint\n",
        "    cmd: mle fingerprint\n    always_changed: true\n",
    )
    assert stages_run(changeable.run("dvc", "repro", "tables").stdout) == ["fingerprint", "tables"]
    assert stages_run(changeable.run("dvc", "repro", "tables").stdout) == ["fingerprint"]
    outside.write_text("a,b\n1,3\n")
    output = changeable.run("dvc", "repro", "tables").stdout
    assert stages_run(output) == ["fingerprint", "tables"] and "outside: changed" in output
