"""Scoring whole files.

A file is read in chunks as a whole file is read. The bits are the same whatever the chunks, and
nothing is half-written.
"""

import contextlib
import gzip
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import BIN
from scored_tables import TABLES, invalid_visits, same, visits, write
from tables_of_other_kinds import houses, plants

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.artifact.export import save, write_manifest
from mle_project.artifact.predictor import Predictor
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.contract import ContractError, parse_contract
from mle_project.core.project import ProjectError
from mle_project.core.strategies import sample_records
from mle_project.core.validation import failure_cases, parse_cells, read_file, reject_nan
from mle_project.modeling.families import build_family
from mle_project.scoring import batch
from mle_project.scoring.batch import score_file
from mle_project.scoring.readers import json_values, parse_column, read_chunks

FAMILIES = ("prior", "linear", "forest", "boosting", "network")


CELLS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "",
            "nan",
            "NaN",
            "inf",
            "-Infinity",
            "0x1F",
            "1_000",
            "+5",
            "-0",
            "007",
            " 3",
            "1e5",
            "1d5",
            "1e400",
            "5e-324",
        ]
    ),
    st.sampled_from(
        [
            "9" * 16,
            "9" * 17,
            "-" + "9" * 30,
            "true",
            "FALSE",
            "yes",
            "2024-02-30",
            "2024-05-01",
            "20240501",
            "2024-W01-1",
        ]
    ),
    st.sampled_from(["2024-05-01T10:00:00Z", "2024-05-01 10:00:00.1234567", "2024-05-01 24:00"]),
    st.floats().map(repr),
    st.integers().map(str),
)


@pytest.mark.parametrize("kind", ["string", "integer", "number", "boolean", "timestamp"])
def test_columns_of_text_are_typed_as_cells_are(kind):
    """The quick way through a column gives what the slow way gives, whatever stands in it."""
    import pyarrow as pa

    @settings(max_examples=400, database=None, derandomize=True, deadline=None)
    @given(st.lists(CELLS, min_size=1, max_size=4))
    def holds(cells):
        quick = parse_column(
            pa.chunked_array([[cell or None for cell in cells]], pa.string()), kind
        )
        slow = parse_cells(pd.Series(cells, dtype=object), kind)
        for a, b in zip(quick, slow, strict=True):
            assert repr(a) == repr(b) or (b is None and pd.isna(a)) or a == b, (kind, cells)

    holds()


@pytest.mark.parametrize("kind", ["string", "integer", "number", "boolean", "timestamp"])
def test_json_values_are_judged_as_they_are(kind):
    """A column with a dtype breaks the contract where its values one by one do."""
    contract = parse_contract(
        "description: One row.\ntask: regression\ncolumns:\n"
        f"  v: {{type: {kind}, description: Any., role: id, available: before_prediction, "
        "nullable: true}\n"
        "  x: {type: number, description: Any., role: feature, available: before_prediction, "
        "example: 1}\n"
        "  y: {type: number, description: Any., role: target, available: after_prediction}\n"
    )
    odd = st.sampled_from(["\ud800", 2**53 + 1, 1e31, 10**400])
    values = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), odd
    )

    @settings(max_examples=150, database=None, derandomize=True, deadline=None)
    @given(st.lists(values, min_size=1, max_size=4))
    def holds(value):
        quick = json_values(value, kind)
        slow = pd.Series([reject_nan(value) for value in value], dtype=object)
        judged = [
            failure_cases(pd.DataFrame({"v": one}), contract, ["v"]).values.tolist()
            for one in (quick, slow)
        ]
        assert judged[0] == judged[1], value

    holds()


@pytest.mark.parametrize("table", TABLES)
def test_a_quick_look_never_passes_what_the_contract_rejects(table):
    """Columns with their usual dtypes and now and then a strange value.

    The look is as strict as the check.
    """
    contract = parse_contract(TABLES[table]()[0])
    usual = pd.DataFrame(sample_records(contract, 3))
    counts = {True: 0, False: 0}
    floats = st.floats(width=32) | st.sampled_from(
        [0.0, 5.5, 600.0, 600.0000001, -1e-9, 1e30, 1.0000001e30, np.nan]
    )
    kinds = {
        "float64": floats,
        "float32": floats,
        "int64": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 30),
        "int8": st.integers(-128, 127),
    }
    kinds |= {
        "str": st.sampled_from(["north", "card", "gas", "smooth", "", "é", None]),
        "object": st.sampled_from([1, "north", None, True, 2.5]),
    }
    kinds |= {"strange": st.sampled_from([True, False, None, 1, "true", np.nan])}
    kinds |= {
        "bool": st.booleans(),
        "category": st.sampled_from(["north", "card", None]),
        "Int64": st.sampled_from([1, 3, None]),
    }

    @settings(max_examples=250, database=None, derandomize=True, deadline=None)
    @given(st.sampled_from(contract.features), st.sampled_from(sorted(kinds)), st.data())
    def holds(name, dtype, data):
        values = data.draw(st.lists(kinds[dtype], min_size=3, max_size=3))
        with np.errstate(over="ignore"):
            frame = usual.assign(
                **{name: pd.Series(values, dtype="object" if dtype == "strange" else dtype)}
            )[contract.features]
        broken = len(failure_cases(frame, contract))
        counts[batch.fast_validate(frame, contract)] += 1
        assert not (broken and batch.fast_validate(frame, contract)), (name, values)

    holds()
    assert batch.fast_validate(usual[contract.features], contract) and min(counts.values()) > 10, (
        counts
    )


@pytest.mark.parametrize("table", TABLES)
def test_chunks_together_are_the_whole_file(table, tmp_path):
    text, frame = TABLES[table]()
    contract = parse_contract(text)
    whole = read_file(write(frame, tmp_path / "t.csv"), contract)
    for name in ("t.csv", "t.parquet", "t.jsonl"):
        path = write(frame, tmp_path / name)
        for rows in (1, 7, 1000):
            parts = list(read_chunks(path, contract, rows))
            assert [len(part) for part in parts] == [rows] * (900 // rows) + [900 % rows] * bool(
                900 % rows
            )
            joined = pd.concat(parts, ignore_index=True)
            assert not len(failure_cases(joined, contract, list(joined)))
            names = [name for name in joined if contract.columns[name].type != "timestamp"]
            assert same(joined[names].astype(object), whole[names]), (name, rows)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.ndjson.gz"])
def test_compressed_files_are_read(name, tmp_path):
    text, frame = visits(30)
    write(frame, tmp_path / name)
    assert sum(len(part) for part in read_chunks(tmp_path / name, parse_contract(text), 7)) == 30


def written_numbers(predictions):
    """Of the model's predictions, the number of each row that a scored file holds."""
    if predictions.ndim == 1:
        return predictions
    if predictions.shape[1] == 2:
        return predictions[:, 1]
    return predictions.max(axis=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("table", TABLES)
def test_answers_do_not_depend_on_chunks_or_formats(table, family, models, tmp_path):
    _, frame = TABLES[table]()
    predictor = Predictor(models(table, family))
    source = write(frame, tmp_path / "in.parquet")
    score_file(source, tmp_path / "whole.parquet", predictor, chunk_size=50_000, threads=1)
    few = write(frame.head(150), tmp_path / "few.parquet")
    expected = pd.read_parquet(tmp_path / "whole.parquet")
    column = "probability" if "probability" in expected else "value"
    at_once = written_numbers(predictor.predict_frame(frame))
    assert expected[column].tolist() == at_once.tolist()
    assert expected["row"].tolist() == list(range(900)) and set(expected["model"]) == {
        predictor.digest
    }
    score_file(few, tmp_path / "part.parquet", predictor, chunk_size=1)
    assert same(expected.head(150), pd.read_parquet(tmp_path / "part.parquet"))
    for rows, threads in ((7, 1), (64, 2), (1000, 2)):
        score_file(source, tmp_path / "part.parquet", predictor, chunk_size=rows, threads=threads)
        assert same(expected, pd.read_parquet(tmp_path / "part.parquet")), rows
    for name in ("in.csv", "in.jsonl"):
        score_file(
            write(frame, tmp_path / name), tmp_path / "other.parquet", predictor, chunk_size=100
        )
        assert same(expected, pd.read_parquet(tmp_path / "other.parquet")), name


@pytest.mark.parametrize("table", TABLES)
def test_every_output_format_holds_the_same_answers(table, models, tmp_path):
    _, frame = TABLES[table]()
    predictor = Predictor(models(table, "boosting"))
    source = write(frame, tmp_path / "in.parquet")
    for name in ("out.parquet", "out.csv", "out.jsonl"):
        score_file(source, tmp_path / name, predictor, chunk_size=400)
    whole = pd.read_parquet(tmp_path / "out.parquet")
    assert pq.read_schema(tmp_path / "out.parquet").metadata[b"model"] == predictor.digest.encode()
    text = whole.assign(
        **{name: whole[name].astype(str) for name in whole if whole[name].dtype.kind == "M"}
    )
    table_of_text = pd.read_csv(
        tmp_path / "out.csv",
        float_precision="round_trip",
        keep_default_na=False,
        na_values={"": []},
    )
    assert same(text, table_of_text)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == text.to_dict("records")


def test_the_columns_of_an_answer(models, tmp_path):
    expected = {
        "visits": ["row", "visit", "day", "label", "probability", "model"],
        "plants": [
            "row",
            "leaf",
            "plant",
            "label",
            "probability",
            "probability_ash",
            "probability_oak",
            "probability_elm",
            "model",
        ],
    }
    for table, names in expected.items():
        _, frame = TABLES[table]()
        score_file(
            write(frame, tmp_path / "in.parquet"),
            tmp_path / "out.parquet",
            Predictor(models(table, "prior")),
            progress=False,
        )
        assert pq.read_schema(tmp_path / "out.parquet").names == names
    frame = houses().frame
    score_file(
        write(frame, tmp_path / "in.parquet"),
        tmp_path / "out.parquet",
        Predictor(models("houses", "prior")),
        progress=False,
    )
    names = pq.read_schema(tmp_path / "out.parquet").names
    assert (
        names[:3] == ["row", "house", "value"]
        and names[-1] == "model"
        and set(names[3:-1]) <= {"low", "high"}
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("label", int), ("label", str), ("row", int), ("model", str)]
)
def test_a_copied_column_keeps_its_name_beside_an_answer(name, kind, tmp_path):
    text, frame = visits()
    frame = frame.rename(columns={"visit": name}).astype({name: kind})
    type_name = "string" if kind is str else "integer"
    line = f"{name}: {{type: {type_name}, description: A number., role: id, "
    line += f"available: before_prediction, example: {kind(7)!r}}}"
    text = re.sub(r"visit: \{[^}]*\}", line, text)
    contract = parse_contract(text)
    x = feature_frame(frame, contract)
    save(
        tmp_path / "m",
        build_family("prior", {}, contract, 0).fit(x, encode_target(frame, contract)),
        contract,
        text,
        {"threshold": 0.5},
        x,
    )
    write_manifest(tmp_path / "m")
    score_file(
        write(frame, tmp_path / "in.csv"),
        tmp_path / "out.csv",
        Predictor(tmp_path / "m"),
        progress=False,
    )
    names = [
        f"predicted_{one}" if one == name else one
        for one in ("row", "label", "probability", "model")
    ]
    assert list(pd.read_csv(tmp_path / "out.csv")) == [names[0], name, "day", *names[1:]]


def test_what_is_not_needed_is_not_read(models, tmp_path):
    """The target is not known yet, and a column that no model takes holds nonsense."""
    predictor = Predictor(models("plants", "prior"))
    frame = plants().frame.assign(species=None, note=7)
    for name in ("in.csv", "in.parquet", "in.jsonl"):
        result = score_file(
            write(frame, tmp_path / name), tmp_path / "out.csv", predictor, progress=False
        )
        assert (result["rows"], result["rejected"]) == (900, 0)


def test_a_folder_of_parts_is_one_table(models, tmp_path):
    _, frame = visits()
    (tmp_path / "in").mkdir()
    for number, part in enumerate(np.array_split(np.arange(900), 4)):
        write(
            frame.iloc[part].reset_index(drop=True),
            tmp_path / "in" / f"part-{number:05}.snappy.parquet",
        )
    (tmp_path / "in" / "_SUCCESS").touch()
    predictor = Predictor(models("visits", "linear"))
    score_file(tmp_path / "in", tmp_path / "a.parquet", predictor, chunk_size=100)
    score_file(write(frame, tmp_path / "whole.parquet"), tmp_path / "b.parquet", predictor)
    assert same(pd.read_parquet(tmp_path / "a.parquet"), pd.read_parquet(tmp_path / "b.parquet"))
    write(frame.drop(columns="visit").head(3), tmp_path / "in" / "part-00009.snappy.parquet")
    with pytest.raises(
        ContractError,
        match="part-00009.snappy.parquet and part-00000.snappy.parquet differ in the columns visit",
    ):
        score_file(tmp_path / "in", tmp_path / "a.parquet", predictor)


HEAD = "visit,day,minutes,items,member,door,payment\n"
ROW = "1,2024-05-01,12.5,,true,north,card\n"
JSON_ROW = (
    '{"visit": 1, "minutes": 1.5, "items": null, "member": true, "door": "north", '
    '"payment": "card"}\n'
)
BAD = {
    "t.xlsx": (b"x", "t.xlsx is none of: .csv, .csv.gz"),
    "empty.csv": (b"", "empty.csv is empty"),
    "head.csv": (HEAD.encode(), "head.csv has no rows"),
    "bare.csv": (HEAD.strip().encode(), "bare.csv has no rows|bare.csv cannot be read"),
    "long.csv": (
        (HEAD + ROW * 3 + "1,2024-05-01,12.5,,true,north,card,x\n").encode(),
        "long.csv: row 3 has 8 cells and the head has 7",
    ),
    "short.csv": (
        (HEAD + ROW * 30_000 + "1,2\n" + ROW).encode(),
        "short.csv: row 30,000 has 2 cells and the head has 7",
    ),
    "l.csv": (
        (HEAD + ROW).encode() + "1,2024-05-01,1,,true,n\xf6rth,card\n".encode("latin-1"),
        "l.csv cannot be read as csv: .*(utf-8|UTF8)",
    ),
    "gone.csv": (
        b"visit,minutes,items,member,door\n1,1,1,true,north\n",
        "gone.csv: .*\n  `payment` is missing, and the model needs",
    ),
    "m.csv": (
        (HEAD.strip() + ",hat,cap\n" + ROW.strip() + ",1,2\n").encode(),
        "m.csv: .*\n  `hat`, `cap` is not in contract.yaml",
    ),
    "twice.csv": (
        (HEAD.strip() + ",door\n" + ROW.strip() + ",x\n").encode(),
        "twice.csv: .*\n  `door` stands twice",
    ),
    "half.csv.gz": (
        gzip.compress((HEAD + ROW * 9000).encode())[:-40],
        "half.csv.gz cannot be read as csv",
    ),
    "no.csv.gz": (b"not compressed", "no.csv.gz cannot be read as csv"),
    "empty.jsonl": (b"\n\n", "empty.jsonl has no rows"),
    "rejects.jsonl": (
        (JSON_ROW * 4 + JSON_ROW[:-3] + "\n").encode(),
        "rejects.jsonl: line 5 is not valid JSON",
    ),
    "deep.jsonl": (b"[" * 100_000 + b"\n", "deep.jsonl: line 1 is not valid JSON"),
    "list.jsonl": (b"[1, 2]\n", "list.jsonl: line 1 holds no JSON object"),
    "hat.jsonl": (
        (JSON_ROW + JSON_ROW.replace("{", '{"hat": 1, ')).encode(),
        "hat.jsonl: .*\n  `hat` is not in contract.yaml",
    ),
    "again.jsonl": (
        (JSON_ROW + JSON_ROW.replace("{", '{"minutes": 3, ')).encode(),
        "again.jsonl: line 2 has `minutes` twice. Keep one.",
    ),
    "half.jsonl.gz": (
        gzip.compress((JSON_ROW * 9000).encode())[:-40],
        "half.jsonl.gz cannot be read as jsonl",
    ),
    "lost.jsonl": (
        (JSON_ROW + JSON_ROW.replace('"minutes": 1.5, ', "")).encode(),
        "minutes: is a number fails in 1 rows. row 1: no such field",
    ),
    "empty.parquet": (b"", "empty.parquet cannot be read as Parquet"),
    "no.parquet": (b"PAR1 nothing", "no.parquet cannot be read as Parquet"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_rejected_in_a_sentence(name, models, tmp_path):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(ProjectError, match=message) as rejection:
        score_file(tmp_path / name, tmp_path / "out.csv", Predictor(models("visits", "prior")))
    assert "Traceback" not in str(rejection.value)
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.csv"])
        and (tmp_path / "out.csv").read_text() == "before"
    )


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b[:200] + bytes(400) + b[600:]],
    ids=["truncated", "overwritten"],
)
def test_a_damaged_parquet_file_is_rejected(damage, models, tmp_path):
    path = write(visits()[1], tmp_path / "in.parquet")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ContractError, match="in.parquet cannot be read as Parquet"):
        score_file(path, tmp_path / "out.csv", Predictor(models("visits", "prior")))


def test_places_that_cannot_be(models, tmp_path):
    predictor = Predictor(models("visits", "prior"))
    source = write(visits()[1], tmp_path / "in.csv")
    wrong = {
        "in.csv": "different files",
        "nowhere/out.csv": "there is no folder",
        "out.txt": "out.txt is none of",
        "out.csv.gz": "ends in",
    }
    for target, message in wrong.items():
        with pytest.raises(ProjectError, match=message):
            score_file(source, tmp_path / target, predictor)
    with pytest.raises(ProjectError, match="different files"):
        score_file(source, tmp_path / "out.csv", predictor, rejects=tmp_path / "out.csv")
    (tmp_path / "parts").mkdir()
    write(visits()[1], tmp_path / "parts" / "part-0.parquet")
    with pytest.raises(ProjectError, match="lies in .*parts, whose files are the rows to score"):
        score_file(tmp_path / "parts", tmp_path / "parts" / "out.parquet", predictor)
    with pytest.raises(ProjectError, match="a chunk of 0 rows"):
        score_file(source, tmp_path / "out.csv", predictor, chunk_size=0)
    with pytest.raises(ProjectError, match="gone.csv does not exist"):
        score_file(tmp_path / "gone.csv", tmp_path / "out.csv", predictor)


@pytest.mark.parametrize("name", ["in.csv", "in.parquet", "in.jsonl"])
@pytest.mark.parametrize("rows", [1, 100, 50_000])
def test_broken_rows_stop_the_run_or_are_set_aside(name, rows, models, tmp_path):
    predictor = Predictor(models("visits", "boosting"))
    source = write(invalid_visits(), tmp_path / name)
    with pytest.raises(
        ContractError, match="minutes: is between 0 and 600 fails in 1 rows. row 3: -5"
    ) as rejection:
        score_file(source, tmp_path / "out.parquet", predictor, chunk_size=rows)
    assert str(rejection.value).startswith(f"{name} breaks the model's contract.yaml in its first ")
    assert "payment: is one of card, cash fails in 1 rows. row 3: 'beans'" in str(
        rejection.value
    ) and "--rejects" in str(rejection.value)
    assert not (tmp_path / "out.parquet").exists()
    result = score_file(
        source,
        tmp_path / "out.parquet",
        predictor,
        chunk_size=rows,
        rejects=tmp_path / "rejects.jsonl",
    )
    assert (result["rows"], result["scored"], result["rejected"]) == (900, 897, 3)
    rejects = [
        tuple(json.loads(line).values())
        for line in (tmp_path / "rejects.jsonl").read_text().splitlines()
    ]
    assert rejects == [
        (3, "minutes", "is between 0 and 600"),
        (3, "payment", "is one of card, cash"),
        (450, "items", "is an integer"),
        (899, "minutes", "is not missing"),
    ]
    sound = invalid_visits().drop(index=[3, 450, 899])
    predictions = pd.read_parquet(tmp_path / "out.parquet")
    assert predictions["row"].tolist() == sound.index.tolist() == predictions["visit"].tolist()
    assert predictions["probability"].tolist() == predictor.predict_frame(sound)[:, 1].tolist()


def test_nothing_but_broken_rows(models, tmp_path):
    frame = visits(5)[1].assign(minutes=-1.0)
    for target in ("out.parquet", "out.csv", "out.jsonl"):
        result = score_file(
            write(frame, tmp_path / "in.csv"),
            tmp_path / target,
            Predictor(models("visits", "prior")),
            rejects=tmp_path / "b.jsonl",
        )
        assert (result["scored"], result["rejected"]) == (0, 5)
    assert (
        len(pd.read_parquet(tmp_path / "out.parquet")) == 0
        and (tmp_path / "out.jsonl").read_text() == ""
    )


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from mle_project.scoring import batch
from mle_project.artifact.predictor import Predictor
answer = batch.prediction_table
def slow(*given):
    time.sleep(0.3)
    return answer(*given)
batch.prediction_table = slow
batch.score_file(sys.argv[1], sys.argv[2], Predictor(sys.argv[3]), chunk_size=50, threads=1)
"""


@pytest.mark.parametrize("signal", [2, 15, 9])
def test_a_run_that_is_stopped_leaves_the_old_output(signal, models, tmp_path):
    source = write(visits()[1], tmp_path / "in.csv")
    target = tmp_path / "out.csv"
    target.write_text("before")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, source, target, models("visits", "prior")],
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(tmp_path.glob(".out.csv.*")):
        time.sleep(0.05)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal)
    assert process.wait(timeout=30) != 0
    assert target.read_text() == "before"


@pytest.mark.parametrize("number", [15, 1], ids=["SIGTERM", "SIGHUP"])
def test_what_is_half_written_goes_with_the_command(number, models, tmp_path):
    """A terminal that is closed, or a scheduler that ends the job.

    Nothing but a power cut leaves the part behind.
    """
    source = write(pd.concat([visits()[1]] * 20, ignore_index=True), tmp_path / "in.csv")
    command = [
        BIN / "mle",
        "score",
        source,
        tmp_path / "out.csv",
        "--chunk-size",
        "1",
        "--model",
        models("visits", "prior"),
    ]
    process = subprocess.Popen(
        [*map(str, command)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while not list(tmp_path.glob("*.part")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_full_disk_is_a_sentence(models, tmp_path):
    """/dev/full answers every write as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    source = write(invalid_visits(), tmp_path / "in.csv")
    (tmp_path / f".rejects.jsonl.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(ProjectError, match="rejects.jsonl cannot be written: .*No space left"):
        score_file(
            source,
            tmp_path / "out.csv",
            Predictor(models("visits", "prior")),
            rejects=tmp_path / "rejects.jsonl",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_progress_is_a_line_now_and_then_where_nobody_watches(
    models, tmp_path, capsys, monkeypatch
):
    source = write(visits()[1], tmp_path / "in.csv")
    predictor = Predictor(models("visits", "prior"))
    score_file(source, tmp_path / "out.csv", predictor, chunk_size=100)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(batch, "PROGRESS_SECONDS", 0.0)
    score_file(source, tmp_path / "out.csv", predictor, chunk_size=100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9 and lines[-1].startswith("in.csv: 900 rows scored, ")
    score_file(source, tmp_path / "out.csv", predictor, chunk_size=100, progress=False)
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_on_a_terminal(models, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    source = write(visits()[1], tmp_path / "in.parquet")
    code = (
        "import sys; from mle_project.artifact.predictor import Predictor; "
        "from mle_project.scoring.batch import score_file; "
        "score_file(*sys.argv[1:3], Predictor(sys.argv[3]))"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    subprocess.run(
        [sys.executable, "-c", code, source, tmp_path / "out.csv", models("visits", "prior")],
        stderr=theirs,
        check=True,
    )
    os.close(theirs)
    terminal = ""
    with contextlib.suppress(OSError):  # how a terminal says that the other side is closed
        while piece := os.read(ours, 10_000).decode():
            terminal += piece
    assert "in.parquet" in terminal and "900/900" in terminal and "rows/s" in terminal


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(models, tmp_path):
    """The peak for ten times the rows is a few megabytes more, whatever the format."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("only Linux tells the peak of one process")
    code = (
        "import sys, re; from mle_project.artifact.predictor import Predictor; "
        "from mle_project.scoring.batch import score_file; "
        "source, target, folder = sys.argv[1:4]; options = dict(threads=1, progress=False); "
        "score_file(source, target, Predictor(folder), chunk_size=5000, **options); "
        r"print(int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]) // 1024)"
    )
    frame = pd.concat([visits()[1]] * 45, ignore_index=True)
    for name in ("in.parquet", "in.csv", "in.jsonl"):
        peaks = []
        for times in (1, 10):
            write(pd.concat([frame] * times, ignore_index=True), tmp_path / name)
            command = [
                sys.executable,
                "-c",
                code,
                tmp_path / name,
                tmp_path / "out.parquet",
                models("visits", "prior"),
            ]
            peaks.append(
                int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            )
        assert peaks[1] - peaks[0] < 60, (name, peaks)
