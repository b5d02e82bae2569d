"""The same artifact on Apache Spark: the answers of one machine to the last bit.

Runs where PySpark (`make spark`) and Java are.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import raw_files_of_a_shop as raw_files
from scored_tables import TABLES, invalid_visits, same, write

from mle_project.artifact.predictor import Predictor
from mle_project.core.project import ProjectError
from mle_project.scoring.batch import score_file
from mle_project.scoring.spark import score_on_spark

needs_spark = pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None or not shutil.which("java"),
    reason="PySpark or Java is not here: `make spark`",
)

RUN = """
import json, sys
from mle_project.core.project import ProjectError
from mle_project.scoring.spark import score_on_spark
try:
    print(json.dumps(score_on_spark(**json.loads(sys.argv[1]))))
except ProjectError as error:
    sys.exit(f"error: {error}")
"""


def spark_home(tmp_path: Path) -> Path:
    """Spark's folder by another name.

    Executors of a local cluster work in a folder inside it, and the installed one is to stay as it
    is.
    """
    home = tmp_path / "spark"
    if not home.exists():
        home.mkdir()
        for entry in Path(importlib.util.find_spec("pyspark").origin).parent.iterdir():
            if entry.name != "work":
                (home / entry.name).symlink_to(entry)
    return home


def on_spark(tmp_path: Path, master: str, **arguments: object) -> subprocess.CompletedProcess[str]:
    """Score in a process of its own, as the command does."""
    env = os.environ | {
        "MLE_SPARK_MASTER": master,
        "SPARK_HOME": str(spark_home(tmp_path)),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    words = json.dumps(
        {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()}
    )
    return subprocess.run(
        [sys.executable, "-c", RUN, words],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )


@needs_spark
@pytest.mark.parametrize("query", ["ROW_LOCAL", "JOINED"])
def test_raw_rows_on_a_cluster_get_the_predictions_of_one_machine(query, tmp_path):
    "Rows of which some cannot be read, break the contract or are filtered out."
    raw = raw_files.raw_visits()
    if query == "JOINED":
        raw = raw.assign(door=raw["door"].str[:1])
    sql = f"{getattr(raw_files, query)} WHERE payment IS NOT NULL OR door IS NULL"
    (tmp_path / "shop").mkdir()
    shop = raw_files.Shop(tmp_path / "shop", sql, raw)
    kept = np.flatnonzero(raw["payment"].notna())  # not by the filter: a bad row may be both
    raw.loc[kept[[5, 300]], "minutes"] = ["soon", "-99"]
    raw.loc[kept[444], "items"] = "many"
    rejects = tmp_path / "rejects.jsonl"
    doors = f"doors={shop.folder / 'doors.csv'}"
    given = ["--source", doors] if query == "JOINED" else []
    file = write(raw, tmp_path / "in.parquet")
    code, output, expected = shop.score(file, "--rejects", str(rejects), *given)
    assert code == 3, output
    one_machine = sorted(rejects.read_text().splitlines())
    process = on_spark(
        tmp_path,
        "local-cluster[2,1,1024]",
        source=parts_of(raw, tmp_path / "in"),
        target=tmp_path / "out.parquet",
        folder=shop.model,
        rows=50,
        rejects=rejects,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["rejected"] == 3 and result["dropped"] > 0 and result["form"] == "raw"
    assert same(expected, pd.read_parquet(tmp_path / "out.parquet"))
    assert sorted(rejects.read_text().splitlines()) == one_machine


@needs_spark
def test_a_query_that_looks_at_other_rows_is_none_for_spark(tmp_path):
    (tmp_path / "shop").mkdir()
    raw = raw_files.raw_visits(300)
    shop = raw_files.Shop(tmp_path / "shop", raw_files.WINDOW, raw)
    file = write(raw, tmp_path / "in.parquet")
    process = on_spark(
        tmp_path, "local[1]", source=file, target=tmp_path / "o", folder=shop.model, form="raw"
    )
    assert process.returncode and "the query takes no row without the others" in process.stderr


def parts_of(frame: pd.DataFrame, folder: Path) -> Path:
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(frame)), 5)):
        write(frame.iloc[part].reset_index(drop=True), folder / f"a part {number}.parquet")
    return folder


@needs_spark
@pytest.mark.parametrize("table", ["visits", "houses"])
def test_a_cluster_answers_as_one_machine_does(table, models, tmp_path):  # noqa: F811
    """Two executors in processes of their own, batches of 7 rows (so some of one).

    Five parts in, one file out.
    """
    _, frame = TABLES[table]()
    folder = models(table, "linear")
    score_file(write(frame, tmp_path / "in.parquet"), tmp_path / "local.parquet", Predictor(folder))
    source = parts_of(frame, tmp_path / "in")
    process = on_spark(
        tmp_path,
        "local-cluster[2,1,1024]",
        source=source,
        target=tmp_path / "out.parquet",
        folder=folder,
        rows=7,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads(process.stdout.splitlines()[-1])
    assert (result["rows"], result["rejected"], result["model"]) == (
        900,
        0,
        Predictor(folder).digest,
    )
    assert same(
        pd.read_parquet(tmp_path / "local.parquet"), pd.read_parquet(tmp_path / "out.parquet")
    )
    assert not list(tmp_path.glob(".mle-score-*"))


@needs_spark
def test_a_folder_of_answers_and_another_partitioning(models, tmp_path):  # noqa: F811
    _, frame = TABLES["plants"]()
    folder = models("plants", "network")
    source = write(frame, tmp_path / "in.parquet")
    score_file(source, tmp_path / "local.parquet", Predictor(folder))
    for _ in range(2):  # the second time the folder is replaced
        process = on_spark(
            tmp_path, "local[2]", source=source, target=tmp_path / "out", folder=folder, rows=50
        )
        assert process.returncode == 0, process.stderr[-3000:]
    predictions = pd.read_parquet(tmp_path / "out").sort_values("row", ignore_index=True)
    assert same(pd.read_parquet(tmp_path / "local.parquet"), predictions)


@needs_spark
def test_broken_rows_are_one_message(models, tmp_path):  # noqa: F811
    folder = models("visits", "prior")
    source = parts_of(invalid_visits(), tmp_path / "in")
    process = on_spark(
        tmp_path, "local[2]", source=source, target=tmp_path / "out.csv", folder=folder
    )
    message = process.stderr[process.stderr.index("error: ") :]
    assert (
        process.returncode == 1
        and "Traceback" not in process.stderr
        and "\tat " not in process.stderr
    )
    assert message.startswith(
        "error: in breaks the model's contract.yaml in its first 900 rows (counted from 0):"
    )
    assert (
        "minutes: is between 0 and 600 fails in 1 rows. row 3: -5.0" in message
        and "items: is an integer fails in 1 rows. row 450: 0.5" in message
    )
    assert not (tmp_path / "out.csv").exists()
    local = tmp_path / "local.jsonl"
    spark = tmp_path / "spark.jsonl"
    score_file(source, tmp_path / "local.csv", Predictor(folder), rejects=local)
    process = on_spark(
        tmp_path,
        "local[2]",
        source=source,
        target=tmp_path / "out.csv",
        folder=folder,
        rejects=spark,
    )
    assert json.loads(process.stdout.splitlines()[-1])["rejected"] == 3, process.stderr[-3000:]
    assert local.read_text() == spark.read_text()
    assert (tmp_path / "local.csv").read_text() == (tmp_path / "out.csv").read_text()


@needs_spark
def test_a_fault_on_a_worker_is_one_message(models, tmp_path):  # noqa: F811
    """A part that is no Parquet behind its footer: the workers find out."""
    source = parts_of(TABLES["visits"]()[1], tmp_path / "in")
    path = source / "a part 2.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(500) + content[504:])
    process = on_spark(
        tmp_path,
        "local[2]",
        source=source,
        target=tmp_path / "out.parquet",
        folder=models("visits", "prior"),
    )
    assert (
        process.returncode == 1
        and "error: Spark could not score: " in process.stderr
        and "\tat " not in process.stderr
    ), process.stderr[-3000:]
    assert "Traceback" not in process.stderr and not (tmp_path / "out.parquet").exists()


def test_nothing_but_an_earlier_answer_is_replaced(models, tmp_path):  # noqa: F811
    """Rejected before Spark starts, and everything is as it was."""
    folder = models("visits", "prior")
    frame = TABLES["visits"]()[1]
    source = parts_of(frame, tmp_path / "in")
    inside = tmp_path / "in" / "answers"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "part-0.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    write(frame, tmp_path / "other" / "part-0.parquet")
    (tmp_path / "kept").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    nested = "must be different places, none inside another"
    earlier = "holds something else than earlier predictions"
    cases = [
        (source, nested),
        (tmp_path, nested),
        (inside, nested),
        (inside.with_suffix(".parquet"), "whose files are the rows to score"),
    ]
    cases += [
        (tmp_path / "notes", earlier),
        (tmp_path / "other", earlier),
        (tmp_path / "kept", "is a file, and"),
    ]
    cases.append((tmp_path / "no" / "out", "there is no folder"))
    for target, words in cases:
        with pytest.raises(ProjectError, match=words):
            score_on_spark(source, target, folder)
    with pytest.raises(ProjectError, match=nested):
        score_on_spark(source, tmp_path / "out", folder, rejects=source / "a part 0.parquet")
    with pytest.raises(ProjectError, match=nested):
        score_on_spark(source / "a part 0.parquet", source, folder)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@needs_spark
@pytest.mark.parametrize("change", ["lost", "strange", "differ"])
def test_every_part_has_the_columns(change, models, tmp_path):  # noqa: F811
    """Rejected with the words of local scoring."""
    folder = models("visits", "prior")
    frame = TABLES["visits"]()[1]
    source = parts_of(frame, tmp_path / "in")
    later = {
        "lost": frame.drop(columns="minutes"),
        "strange": frame.assign(extra=1),
        "differ": frame.drop(columns="visit"),
    }[change]
    write(later, source / "a part 3.parquet")
    with pytest.raises(ProjectError, match="a part 3.parquet") as local:
        score_file(source, tmp_path / "local.parquet", Predictor(folder))
    process = on_spark(
        tmp_path, "local[2]", source=source, target=tmp_path / "out.parquet", folder=folder
    )
    assert (
        process.returncode == 1
        and f"error: {local.value}" in process.stderr
        and not (tmp_path / "out.parquet").exists()
    ), process.stderr[-3000:]


def test_what_spark_cannot_do_is_said_at_once(models, tmp_path, monkeypatch):  # noqa: F811
    folder = models("visits", "prior")
    source = write(TABLES["visits"]()[1], tmp_path / "in.csv")
    with pytest.raises(
        ProjectError,
        match="in.csv is no Parquet, and Spark scores nothing else here. Use --engine local",
    ):
        score_on_spark(source, tmp_path / "out.parquet", folder)
    source = write(TABLES["visits"]()[1], tmp_path / "in.parquet")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyspark", None)
        without.setitem(sys.modules, "pyspark.sql", None)
        with pytest.raises(ProjectError, match="PySpark is not installed here. Type `make spark`"):
            score_on_spark(source, tmp_path / "out.parquet", folder)
    assert not list(tmp_path.glob(".mle-score-*"))
    if importlib.util.find_spec("pyspark"):
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.delenv("JAVA_HOME", raising=False)
        with pytest.raises(ProjectError, match="Spark needs Java 17 or newer, and there is none"):
            score_on_spark(source, tmp_path / "out.parquet", folder)
