"""Engines and batches: the result depends on neither.

Large tables take no more memory than small ones.
What needs Spark is skipped where pyspark or Java is missing (`make spark` installs the first).
"""

import datetime
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from projects import CONTRACT, QUERY
from tables_of_other_kinds import houses, plants

from mle_project.core.arrays import encode_target, frame_to_arrays
from mle_project.core.contract import ContractError, example_contract, parse_contract
from mle_project.core.project import ProjectError, root
from mle_project.core.strategies import sample_records
from mle_project.core.validation import validate
from mle_project.data import engines, parquet, splits, sql
from mle_project.data.engines import run_query
from mle_project.data.parquet import batches, read_rows, systematic_sample, validate_parquet
from mle_project.data.sources import local_files
from mle_project.data.splits import SPLITS, UNLABELED, check_splits, split_names, write_splits
from mle_project.tables import describe_split, target_over_time

ROOT = root()


def visits(rows=900):
    frame = pd.DataFrame(sample_records(example_contract(), rows, seed=1, gaps=0.1))
    days = pd.date_range("2024-01-01", periods=rows)
    back = np.random.default_rng(0).random(rows) < 0.4
    split = {"kind": "time", "validation": "2025-01-01", "test": "2025-09-01"}
    return example_contract(), frame.assign(visit=range(rows), day=days, back=back), split


def parts_of(kind):
    """The contract, the frame and the split of a table of another kind."""
    return kind.contract, kind.frame, kind.split


KINDS = {
    "visits": visits,
    "plants": lambda: parts_of(plants()),
    "houses": lambda: parts_of(houses()),
}
each_table = pytest.mark.parametrize("name", list(KINDS))


def write_parts(frame, folder, files=1):
    """A frame as Parquet files that continue each other."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part-{number}.parquet" for number in range(files)]
    for path, places in zip(paths, np.array_split(np.arange(len(frame)), files), strict=True):
        frame.iloc[places].to_parquet(path, index=False, row_group_size=101)
    return paths


# Batches.
@each_table
@pytest.mark.parametrize("rows", [None, 400])
def test_batches_divide_a_table_as_a_whole_frame_is_divided(name, rows, tmp_path, monkeypatch):
    contract, frame, split = KINDS[name]()
    whole = systematic_sample(pd.read_parquet(write_parts(frame, tmp_path / "whole")[0]), rows)
    names = split_names(whole, contract, split)
    monkeypatch.setattr(splits, "ROW_GROUP_SIZE", 100)  # rows of a row group
    written = []
    for batch, files in ((1000, 1), (37, 1), (64, 3)):
        monkeypatch.setattr(parquet, "ROW_GROUP_SIZE", batch)
        paths = write_parts(frame, tmp_path / f"{batch}", files)
        out = tmp_path / f"{batch}" / "out"
        out.mkdir()
        written.append(
            write_splits(paths, contract, validate_parquet(paths, contract, "it"), split, rows, out)
        )
    for part in SPLITS:
        written_part = pd.read_parquet(written[0][part])
        pd.testing.assert_frame_equal(
            written_part, whole.loc[names == part, list(contract.columns)].reset_index(drop=True)
        )
        assert len({paths[part].read_bytes() for paths in written}) == 1
        groups = pq.ParquetFile(written[0][part]).metadata
        assert {groups.row_group(i).num_rows for i in range(groups.num_row_groups - 1)} <= {100}
        assert sorted(path.name for path in written[0][part].parent.iterdir()) == [
            "test.parquet",
            "train.parquet",
            "unlabeled.parquet",
            "validation.parquet",
        ]


# Rows without a target.
N_UNLABELED = 60


def unlabeled_among(contract, frame):
    """The frame as a table, and the same among rows without a target and with other gaps."""
    labeled = pa.Table.from_pandas(frame, preserve_index=False)
    key = contract.role("id")[0]
    first = frame.head(N_UNLABELED)
    other = first[key] + ("x" if contract.columns[key].type == "string" else 100_000)
    unlabeled = pa.Table.from_pandas(first.assign(**{key: other}), preserve_index=False)
    gaps = [name for name, column in contract.columns.items() if column.nullable]
    for name in [contract.target.name, *gaps]:
        place = unlabeled.schema.get_field_index(name)
        field = labeled.schema.field(name)
        unlabeled = unlabeled.set_column(place, field, pa.nulls(N_UNLABELED, field.type))
    total = len(frame) + N_UNLABELED
    slots = np.sort(np.random.default_rng(3).choice(total, N_UNLABELED, replace=False))
    order = np.insert(
        np.arange(len(frame)),
        slots - np.arange(N_UNLABELED),
        np.arange(len(frame), total),
    )
    return labeled, unlabeled, pa.concat_tables([labeled, unlabeled]).take(order), slots


@each_table
@pytest.mark.parametrize("rows", [None, 400])
def test_rows_without_a_target_are_set_apart_and_move_no_other(name, rows, tmp_path, monkeypatch):
    contract, frame, split = KINDS[name]()
    if name == "visits":  # whole numbers with no gap but where the target is missing
        frame = frame.assign(items=frame["items"].fillna(1).astype(int))
    labeled, unlabeled, mixed, _ = unlabeled_among(contract, frame)
    monkeypatch.setattr(parquet, "ROW_GROUP_SIZE", 70)
    written = []
    for number, table in enumerate((labeled, mixed)):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path, row_group_size=101)
        folder = tmp_path / f"{number}"
        folder.mkdir()
        checked = validate_parquet([path], contract, "it")
        written.append(write_splits([path], contract, checked, split, rows, folder))
    for part in SPLITS:
        assert written[0][part].read_bytes() == written[1][part].read_bytes()
    schema = pq.read_schema(written[1]["train"])
    others = [column for column in contract.columns if column != contract.target.name]
    none, apart = (pq.read_table(paths[UNLABELED]) for paths in written)
    assert none.schema.equals(apart.schema) and apart.schema.names == others
    assert all(apart.schema.field(column).type == schema.field(column).type for column in others)
    assert len(none) == 0 and apart.equals(unlabeled.select(others).cast(apart.schema))
    facts = [describe_split(paths[UNLABELED], contract) for paths in written]
    assert [one["rows"] for one in facts] == [0, N_UNLABELED]
    assert facts[0] == {"out_of_range": {}, "rows": 0} and "target_mean" not in facts[1]


def test_a_fault_in_a_row_without_a_target_is_told_with_its_row(tmp_path, monkeypatch):
    contract, frame, _ = KINDS["plants"]()
    _, _, mixed, slots = unlabeled_among(contract, frame)
    monkeypatch.setattr(parquet, "ROW_GROUP_SIZE", 70)
    length = mixed["length"].to_pylist()
    length[slots[40]] = -7.5
    place = mixed.schema.get_field_index("length")
    mixed = mixed.set_column(place, "length", pa.array(length))
    path = tmp_path / "mixed.parquet"
    pq.write_table(mixed, path)
    with pytest.raises(ContractError) as error:
        validate_parquet([path], contract, "it")
    assert f"length: is between 0 and 400 fails in 1 of 960 rows. row {slots[40]}: -7.5" in str(
        error.value
    )
    assert "species" not in str(error.value)


def test_an_unknown_class_is_a_fault_also_among_rows_without_a_target(tmp_path):
    contract, frame, _ = KINDS["plants"]()
    frame.loc[700, "species"] = "palm"
    _, _, mixed, slots = unlabeled_among(contract, frame)
    row = 700 + int((slots - np.arange(N_UNLABELED) <= 700).sum())
    pq.write_table(mixed, tmp_path / "mixed.parquet")
    with pytest.raises(
        ContractError, match=rf"species: .* fails in 1 of 960 rows\. row {row}: 'palm'"
    ):
        validate_parquet([tmp_path / "mixed.parquet"], contract, "it")


def test_a_table_without_any_target_is_an_error(tmp_path):
    contract, frame, _ = KINDS["houses"]()
    [path] = write_parts(frame.assign(price=np.nan), tmp_path)
    with pytest.raises(
        ContractError, match="it has no row with a target: `price` is missing in all of its 900"
    ):
        validate_parquet([path], contract, "it")


def test_a_row_without_a_target_that_repeats_a_key_is_found(tmp_path):
    contract, frame, split = KINDS["houses"]()
    again = frame.iloc[[5]].assign(price=np.nan)
    [path] = write_parts(pd.concat([frame, again]), tmp_path)
    checked = validate_parquet([path], contract, "it")
    with pytest.raises(ProjectError, match=r"the key \(house\) is not unique: 2 rows share one"):
        write_splits([path], contract, checked, split, None, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@each_table
def test_faults_are_told_as_of_the_whole_frame(name, tmp_path, monkeypatch):
    contract, frame, _ = KINDS[name]()
    number = contract.numeric_features[0]
    string = contract.categorical_features[0]
    broken = frame.assign(
        **{
            number: frame[number].where(frame.index % 50 != 49, -1e29),
            string: frame[string].where(frame.index < 600),
        }
    )
    broken = broken.drop(columns=contract.categorical_features[-1]).assign(extra=1)
    monkeypatch.setattr(parquet, "ROW_GROUP_SIZE", 70)
    paths = write_parts(broken, tmp_path, 2)
    with pytest.raises(ContractError) as whole:
        validate(pd.read_parquet(tmp_path), contract, "it", list(contract.columns))
    with pytest.raises(ContractError) as parts:
        validate_parquet(paths, contract, "it")
    assert str(parts.value) == str(whole.value)
    assert f"{contract.categorical_features[-1]}: is there fails in 900 of 900 rows" in str(
        parts.value
    ) and "row 49: " in str(parts.value)
    with pytest.raises(ContractError, match="it has no rows"):
        validate_parquet(write_parts(frame.head(0), tmp_path / "none"), contract, "it")


@each_table
def test_the_numbers_and_the_picture_are_those_of_the_whole_frame(name, tmp_path, monkeypatch):
    contract, frame, _ = KINDS[name]()
    monkeypatch.setattr(parquet, "ROW_GROUP_SIZE", 70)
    [path] = write_parts(frame, tmp_path)
    target = encode_target(frame, contract)
    facts = describe_split(path, contract)
    assert facts["rows"] == 900 and facts["target_mean"] == round(float(target.mean()), 6)
    assert (facts.get("from"), facts.get("to")) == (
        (str(frame["day"].min()), str(frame["day"].max())) if contract.time else (None, None)
    )
    begins, course = target_over_time(path, contract, 3)
    assert begins == (frame["day"].iloc[[0, 300, 600]].tolist() if contract.time else [0, 300, 600])
    for place in range(3):
        part = target[300 * place : 300 * (place + 1)]
        expected = (
            [(part == value).mean() for value in range(len(contract.classes))]
            if contract.classes
            else [part.mean()]
        )
        assert np.allclose(course[place], expected, rtol=1e-12)


def test_read_rows_reads_what_thin_keeps(tmp_path, monkeypatch):
    _, frame, _ = visits()
    monkeypatch.setattr(parquet, "ROW_GROUP_SIZE", 70)
    [path] = write_parts(frame, tmp_path)
    whole = pd.read_parquet(path)
    columns = ["back", "items", "payment"]
    for most in (1, 7, 899, 900, None):
        pd.testing.assert_frame_equal(
            read_rows(path, columns, most), systematic_sample(whole, most)[columns]
        )
    pd.testing.assert_frame_equal(read_rows(path, None, 50), systematic_sample(whole, 50))
    with pytest.raises(ProjectError, match="must be at least 1"):
        read_rows(path, None, 0)


ODD = """
description: One measurement
task: binary
columns:
  number: {type: integer, description: Its number., role: id, available: before_prediction}
  when: {type: timestamp, description: Its day., role: time, available: before_prediction}
  price: {type: number, description: A decimal., role: feature, available: before_prediction,
    nullable: true}
  gaps: {type: integer, description: A whole number., role: feature, available: before_prediction,
    nullable: true}
  nothing: {type: string, description: Never there., role: feature, available: before_prediction,
    nullable: true}
  flag: {type: boolean, description: A flag., role: feature, available: before_prediction,
    nullable: true}
  note: {type: timestamp, description: When it was written down., role: ignored,
    available: before_prediction, nullable: true}
  good: {type: boolean, description: Whether it is good., role: target, available: after_prediction}
"""


def test_odd_types_are_stored_as_later_stages_need_them(tmp_path, monkeypatch):
    contract = parse_contract(ODD, "contract.yaml")
    rows = 300
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=day) for day in range(rows)]
    raw = pa.table(
        {
            "number": pa.array(range(rows), pa.uint16()),
            "when": pa.array(days, pa.date32()),
            "price": pa.array([Decimal("1.10"), None, Decimal("-0.30")] * 100, pa.decimal128(9, 2)),
            "gaps": pa.array([None] * 299 + [7], pa.int32()),  # in the last batch only
            "nothing": pa.nulls(rows, pa.int32()),
            "flag": pa.array([True, None, False] * 100),
            "note": pa.array(
                [1_700_000_000_000_000_000, None] * 150, pa.timestamp("ns", "Europe/Paris")
            ),
            "good": pa.array([True, False] * 150),
        }
    )
    path = tmp_path / "raw.parquet"
    pq.write_table(raw, path)
    monkeypatch.setattr(parquet, "ROW_GROUP_SIZE", 64)
    split = {"kind": "time", "validation": "2024-06-01", "test": "2024-08-01"}
    written = write_splits(
        [path], contract, validate_parquet([path], contract, "it"), split, None, tmp_path
    )
    frames = {name: pd.read_parquet(written[name]) for name in SPLITS}
    for frame in frames.values():
        kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
        assert kinds == {
            "number": "uint16",
            "when": "datetime64[us]",
            "price": "float64",
            "gaps": "float64",
            "nothing": "str",
            "flag": "object",
        } | {
            "note": "datetime64[us]",
            "good": "bool",
        }
        numbers, strings = frame_to_arrays(frame, contract)
        assert (strings == "").all() and np.isnan(numbers).any()
    assert (
        frames["train"]["price"].tolist()[0] == 1.1
        and frames["test"]["gaps"].iloc[-1] == 7
        and frames["train"]["gaps"].isna().all()
    )
    assert frames["train"]["flag"].tolist()[:3] == [True, None, False]
    assert frames["train"]["note"].iloc[0] == pd.Timestamp("2023-11-14 22:13:20") and frames[
        "train"
    ]["when"].iloc[0] == pd.Timestamp("2024-01-01")


# Checks between splits.
def test_a_class_that_training_never_sees_is_rejected():
    contract, frame, _ = KINDS["plants"]()
    splits = {name: frame.iloc[place::3] for place, name in enumerate(SPLITS)}
    check_splits(splits, contract)
    with pytest.raises(
        ProjectError,
        match=r"the train split has no row of the class elm \(`species`\).*"
        "take the class out of contract.yaml",
    ):
        check_splits(
            splits | {"train": splits["train"][splits["train"]["species"] != "elm"]}, contract
        )


def test_a_target_with_one_value_is_rejected(tmp_path):
    contract, frame, split = KINDS["houses"]()
    [path] = write_parts(frame.assign(price=5.0), tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"of the last run")
    with pytest.raises(
        ProjectError,
        match="the test split has one value only: every `price` is 5.0|"
        "the train split has one value only",
    ):
        write_splits(
            [path], contract, validate_parquet([path], contract, "it"), split, None, tmp_path
        )
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, "train.parquet"]
    assert (tmp_path / "train.parquet").read_bytes() == b"of the last run"


def test_a_key_that_occurs_twice_is_found_in_files(tmp_path):
    contract, frame, split = KINDS["houses"]()
    [path] = write_parts(frame.assign(house=frame["house"] // 2 * 2), tmp_path)
    with pytest.raises(
        ProjectError,
        match=r"the key \(house\) is not unique: 900 rows share one. First: \(0,\); \(2,\); \(4,\)",
    ):
        write_splits(
            [path], contract, validate_parquet([path], contract, "it"), split, None, tmp_path
        )


# Memory: what grows with the table is on disk.
PROBE = """
import resource, sys
from pathlib import Path
import numpy as np, pandas as pd
from mle_project.core.contract import parse_contract
from mle_project.data.parquet import validate_parquet
from mle_project.tables import describe_split, target_over_time
from mle_project.data.splits import write_splits
sys.path.insert(0, "tests")
from tables_of_other_kinds import plants
few, folder = plants(20_000), Path(sys.argv[1])
split = {"kind": "group", "validation": 0.2, "test": 0.2}
for times in (1, 8, 40):
    paths = [folder / f"{times}-{number}.parquet" for number in range(times)]
    for number, path in enumerate(paths):
        few.frame.assign(leaf=f"{number}-" + few.frame["leaf"]).to_parquet(path, index=False)
    checked = validate_parquet(paths, few.contract, "it")
    written = write_splits(paths, few.contract, checked, split, None, folder)
    for path in written.values():
        describe_split(path, few.contract), target_over_time(path, few.contract)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", PROBE, tmp_path],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
        timeout=300,
    )
    small, medium, large = (
        int(line) for line in process.stdout.splitlines() if line.strip().isdigit()
    )
    assert large - medium < 150 and medium - small < 300, (
        small,
        medium,
        large,
    )  # MB; 20,000, 160,000 and 800,000 rows


# Engines.
KIND = """
description: One event
task: binary
columns:
  word: {type: string, description: A word., role: id, available: before_prediction}
  number: {type: integer, description: A number., role: id, available: before_prediction}
  at: {type: timestamp, description: When., role: time, available: before_prediction}
  size: {type: number, description: A size., role: feature, available: before_prediction,
    nullable: true}
  large: {type: integer, description: A large number., role: feature, available: before_prediction,
    example: 7}
  gaps: {type: integer, description: A number with gaps., role: feature,
    available: before_prediction, nullable: true}
  flag: {type: boolean, description: A flag., role: feature, available: before_prediction,
    nullable: true}
  cost: {type: number, description: A decimal., role: feature, available: before_prediction,
    nullable: true}
  before: {type: number, description: The size before., role: feature, available: before_prediction,
    nullable: true}
  never: {type: string, description: Nothing., role: feature, available: before_prediction,
    nullable: true}
  day: {type: timestamp, description: A day., role: ignored, available: before_prediction,
    nullable: true}
  zoned: {type: timestamp, description: A moment with a zone., role: ignored,
    available: before_prediction, nullable: true}
  fine: {type: timestamp, description: A moment in nanoseconds., role: ignored,
    available: before_prediction, nullable: true}
  text: {type: string, description: A text., role: ignored, available: before_prediction,
    nullable: true}
  late: {type: boolean, description: Late., role: target, available: after_prediction}
"""
WORDS = [
    "Zürich",
    "東京",
    "zoo",
    "Zoo",
    "a,b",
    'say "hi"',
    "two\nlines",
    "back\\slash",
    "🦉",
    "été",
    " space ",
    "NULL",
]
SQL = """
-- joins, windows, casts, dates
SELECT
  e.word, e.number, e.at, e.size, e.large, e.gaps, e.flag,
  CAST(e.cost AS DECIMAL(12, 3)) * 2 AS cost,
  LAG(e.size) OVER (PARTITION BY e.word ORDER BY e.at, e.number) AS before,
  NULL AS never,
  CAST(e.at AS DATE) AS day,
  t.zoned, t.fine,
  j.text,
  COALESCE(e.flag, FALSE) OR e.number % 3 = 0 AS late
FROM events AS e
LEFT JOIN times AS t ON t.number = e.number
LEFT JOIN notes AS j ON j.number = e.number AND j.at <= e.at
ORDER BY {order};
"""


@pytest.fixture
def events(tmp_path, monkeypatch):
    """A project of its own with a CSV file, JSON lines and Parquet as sources.

    It has values of every type.
    """
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "query.sql").write_text(SQL.format(order="e.number DESC"))
    chance = np.random.default_rng(0)
    rows = 400
    size = np.where(
        chance.random(rows) < 0.2,
        np.nan,
        chance.normal(0, 1, rows) * 10.0 ** chance.integers(-200, 28, rows),
    )
    size[:4] = [0.1, -0.0, 5e-324, 1e29 / 3]
    frame = pd.DataFrame(
        {
            "word": [WORDS[i % len(WORDS)] for i in range(rows)],
            "number": range(rows),
            "at": [
                f"2024-02-{1 + i % 28:02d} {i % 24:02d}:00:00.{chance.integers(0, 10**6):06d}"
                for i in range(rows)
            ],
            "size": [
                repr(float(value)) if value == value else ["none", ""][i % 2]
                for i, value in enumerate(size)
            ],
            "large": chance.integers(2**53, 2**62, rows),
            "gaps": [None if i % 5 else i for i in range(rows)],
            "flag": [[True, False, None][i % 3] for i in range(rows)],
            "cost": [None if i % 7 == 0 else f"{i}.{i % 1000:03d}" for i in range(rows)],
        }
    )
    frame.to_csv(tmp_path / "events.csv", index=False)
    zoned = pd.date_range("2024-03-30 22:00", periods=rows, freq="7min", tz="Europe/Paris")
    plain = zoned.tz_convert("UTC").tz_localize(None)
    pq.write_table(
        pa.table(
            {
                "number": range(rows),
                "zoned": pa.array(zoned, pa.timestamp("us", "Europe/Paris")),
                "fine": pa.array(plain, pa.timestamp("ns")),
            }
        ),
        tmp_path / "times.parquet",
    )
    notes = [
        f'{{"number": {i}, "at": "2024-02-10T00:00:00", "text": "note \\u00e9 {i}"}}'
        for i in range(0, rows, 3)
    ]
    (tmp_path / "notes.jsonl").write_text("\n".join(notes) + "\n")
    monkeypatch.chdir(tmp_path)
    files = {
        "events": {"path": "events.csv", "null_values": ["none", "n/a"]},
        "times": {"path": "times.parquet"},
        "notes": {"path": "notes.jsonl"},
    }
    return files, parse_contract(KIND, "contract.yaml")


def tables_of(sources, query, contract, split, folder, engine, rows=None):
    """The tables as the stage makes them, in a folder."""
    (folder / "work").mkdir(parents=True)
    paths = run_query(sources, query, 2, contract, folder / "work", engine)
    facts = write_splits(
        paths, contract, validate_parquet(paths, contract, "it"), split, rows, folder
    )
    shutil.rmtree(folder / "work")
    return facts


SHARES = {"kind": "random", "validation": 0.2, "test": 0.2, "allow_random_over_time": True}


def test_duckdb_reads_every_type(events, tmp_path):
    sources, contract = events
    paths = run_query(sources, "query.sql", 2, contract, tmp_path)
    frame = pd.concat([part.to_pandas() for part in batches(paths)], ignore_index=True)
    assert frame["at"].is_monotonic_increasing and len(frame) == 400
    row = frame.set_index("number").loc
    assert set(frame["word"]) == set(WORDS) and row[1, "size"] == 0 and row[2, "size"] == 5e-324
    assert row[10, "cost"] == 20.02 and row[1, "flag"] is False and row[2, "flag"] is None
    assert (
        row[0, "zoned"] == pd.Timestamp("2024-03-30 21:00") == row[0, "fine"]
        and row[390, "text"] == "note é 390"
    )
    assert frame["never"].isna().all() and frame["large"].dtype == np.int64


def test_no_row_of_a_csv_file_is_skipped_in_silence(events, tmp_path):
    """Left alone, DuckDB's sniffer takes the longest row for the head here, and finds no rows."""
    sources, contract = events
    (tmp_path / "events.csv").write_text("number,at\n1,2\n3,4,5\n")
    with pytest.raises(ProjectError, match="query.sql failed"):
        run_query(sources, "query.sql", 2, contract, tmp_path)


@pytest.mark.parametrize(
    "options", [{}, {"delimiter": ";"}, {"all_text": True}, {"delimiter": ";", "all_text": True}]
)
def test_a_line_of_a_csv_file_is_never_a_comment(options, tmp_path):
    (tmp_path / "a.csv").write_text("word;number\n#1;2\n# x;3\n4;5\n")
    (tmp_path / "b.csv").write_text("# word;number\n#1;2\n4;5\n")
    for name, column, words in (("a", "word", ["#1", "# x", "4"]), ("b", "# word", ["#1", "4"])):
        files = local_files("hats", {"path": str(tmp_path / f"{name}.csv"), **options}, tmp_path)
        with (
            tempfile.TemporaryDirectory(dir=tmp_path) as folder,
            engines.open_engine("duckdb", 2, Path(folder)) as duck,
        ):
            engines.load(duck, "hats", files, tmp_path)
            assert duck.table("hats").to_pandas()[column].tolist() == words
    (tmp_path / "glob").mkdir()
    for name in "ab":
        (tmp_path / "glob" / f"{name}.csv").write_text("# word;number\n#1;2\n")
    assert (
        len(local_files("hats", {"path": f"{tmp_path}/glob/*.csv", **options}, tmp_path).paths) == 2
    )


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Paris"])
@pytest.mark.parametrize("unit", ["ns", "us"])
def test_parquet_with_nanoseconds_is_made_anew_for_spark(zone, unit, tmp_path):
    """Spark reads none, with a zone or without; what it can read stays where it is."""
    path = tmp_path / "times.parquet"
    pq.write_table(
        pa.table(
            {
                "at": pa.array(
                    [1_700_000_000_000_000_000 // (1 if unit == "ns" else 1000)],
                    pa.timestamp(unit, zone),
                )
            }
        ),
        path,
    )
    [converted] = engines._for_spark(
        "times", local_files("times", {"path": str(path)}, tmp_path), tmp_path
    )
    assert (converted == path) is (unit == "us")
    assert pq.read_table(converted)["at"].cast(pa.timestamp("us")).to_pylist() == [
        datetime.datetime(2023, 11, 14, 22, 13, 20)
    ]
    assert "nanoseconds" not in str(pq.read_metadata(converted).schema)


def test_the_order_of_the_query_does_not_matter(events, tmp_path):
    sources, contract = events
    first = tables_of(sources, "query.sql", contract, SHARES, tmp_path / "a", "duckdb")
    (tmp_path / "query.sql").write_text(SQL.format(order="e.word, e.size"))
    second = tables_of(sources, "query.sql", contract, SHARES, tmp_path / "b", "duckdb")
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in SPLITS)


def test_a_large_query_uses_the_disk(tmp_path, monkeypatch):
    """Far more rows than fit into the memory given, sorted."""
    monkeypatch.setenv("MLE_MEMORY", "200m")
    text = (
        "SELECT hash(range) / 1e6 AS number, repeat(range::VARCHAR, 20) AS filler "
        "FROM range(1500000)"
    )
    with engines.open_engine("duckdb", 2, tmp_path) as duck:
        paths = parquet.write_query(
            duck, text, parse_contract(ODD, "contract.yaml"), tmp_path / "result.parquet"
        )
    numbers = np.concatenate([part["number"].to_numpy() for part in batches(paths, ["number"])])
    assert len(numbers) == 1_500_000 and (np.diff(numbers) >= 0).all()


def test_a_query_that_needs_more_memory_says_how_to_give_it(events, tmp_path, monkeypatch):
    sources, contract = events
    (tmp_path / "query.sql").write_text(
        "SELECT list(a.range || b.range::VARCHAR) AS word FROM range(3000) AS a, range(3000) AS b"
    )
    monkeypatch.setenv("MLE_MEMORY", "100m")
    with pytest.raises(
        ProjectError,
        match="(?s)query.sql failed.*MLE_MEMORY is 100m: give the engine more, or choose pyspark",
    ):
        run_query(sources, "query.sql", 2, contract, tmp_path)


def test_faults_of_an_engine_are_told(events, tmp_path, monkeypatch):
    sources, contract = events
    with pytest.raises(ProjectError, match="tables.engine 'abacus' is not one of: duckdb, pyspark"):
        run_query(sources, "query.sql", 2, contract, tmp_path, "abacus")
    for broken in ('a,b\n1,2\n"3,4\n', "a,b\n" + "1,2\n" * 50_000 + "1,2,3\n"):
        (tmp_path / "events.csv").write_text(broken)
        with pytest.raises(
            ProjectError, match="params.yaml: tables.sources.events: cannot be read"
        ):
            run_query(sources, "query.sql", 2, contract, tmp_path)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(
        ProjectError, match="pyspark is not installed. `make spark` installs it; Java 17"
    ):
        run_query(sources, "query.sql", 2, contract, tmp_path, "pyspark")


def spark_problem():
    """Why Spark cannot run here; empty when it can."""
    if not importlib.util.find_spec("pyspark"):
        return "pyspark is not installed (`make spark`)"
    return "" if shutil.which("java") or os.environ.get("JAVA_HOME") else "there is no Java"


spark = pytest.mark.skipif(bool(spark_problem()), reason=spark_problem() or "-")


@pytest.fixture
def cluster(monkeypatch):
    """Two Spark workers in processes of their own."""
    import pyspark

    home = Path(pyspark.__file__).parent
    before = set((home / "work").glob("*"))
    for key, value in {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "MLE_SPARK_MASTER": "local-cluster[2,1,1024]",
    }.items():
        monkeypatch.setenv(key, value)
    yield
    for left in set((home / "work").glob("*")) - before:
        shutil.rmtree(left)


@pytest.mark.slow
@spark
def test_spark_and_duckdb_make_the_same_tables(events, tmp_path, cluster):
    sources, contract = events
    one, other = (
        tables_of(sources, "query.sql", contract, SHARES, tmp_path / engine, engine)
        for engine in engines.ENGINES
    )
    for name in (*SPLITS, UNLABELED):
        pd.testing.assert_frame_equal(
            pd.read_parquet(one[name]), pd.read_parquet(other[name]), check_exact=True
        )
        assert one[name].read_bytes() == other[name].read_bytes()


@pytest.mark.slow
@spark
def test_spark_and_duckdb_make_the_same_tables_of_the_projects_own_query(tmp_path, cluster):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())["tables"]
    one, other = (
        tables_of(params["sources"], QUERY, CONTRACT, params["split"], tmp_path / engine, engine)
        for engine in engines.ENGINES
    )
    for name in (*SPLITS, UNLABELED):
        pd.testing.assert_frame_equal(
            pd.read_parquet(one[name]), pd.read_parquet(other[name]), check_exact=True
        )
        assert one[name].read_bytes() == other[name].read_bytes()


DIFFERENT = """
EXTRACT(dow FROM x); EXTRACT(isodow FROM x); EXTRACT(seconds FROM x); EXTRACT(epoch FROM x)
date_part('dow', x); DATEPART('Second', x)
dayofweek(x); WEEKDAY(x); ISODOW(x); EPOCH(x); DATE_DIFF('month', x, y); datediff('quarter', x, y)
DATE_DIFF('year', x, y); DATE_DIFF('week', x, y)
LOG(x); REGEXP_REPLACE(x, 'a', 'b'); REGEXP_REPLACE(x, 'a', 'b', 'gi')
REGEXP_REPLACE(x, '(a)', '\\1', 'g'); REGEXP_REPLACE(x, 'a', '$', 'g')
x LIKE 'a\\_b'; x NOT ILIKE '%\\%'; FORMAT('{}', x); PRINTF('%.1f', x); MONTHNAME(x); DAYNAME(x)
STRFTIME(x, '%Y-%j'); SUBSTRING(x, 0, 2)
SUBSTR(x, 0)
LEFT(x, -1); RIGHT(x, -2); PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY x)
PERCENTILE_DISC(0.5) WITHIN GROUP (ORDER BY x); QUANTILE(x, 0.5)
APPROX_QUANTILE(x, 0.5); MODE(x); MODE() WITHIN GROUP (ORDER BY x); TRY_CAST(x AS INTEGER)
TRY_CAST(x AS BIGINT); DATE_TRUNC('decade', x)
DATE_TRUNC('century', CAST(x AS DATE)); CAST(x AS DATE) - DATE '2024-01-01'
(x::DATE) - CURRENT_DATE; LAST_DAY(x) - CAST(y AS DATE)
"""
ALIKE = """
MOD(MOD(DATE_DIFF('day', TIMESTAMP '1601-01-01 00:00:00', x), 7) + 7, 7) + 1; EXTRACT(YEAR FROM x)
EXTRACT(MONTH FROM x); EXTRACT(HOUR FROM x)
date_part('year', x)
EXTRACT(week FROM x); EXTRACT(doy FROM x); SECOND(x); DATE_DIFF('minute', x, y)
REPLACE(x, 'a', '\\'); STRPTIME(x, '%Y-%m-%d'); CAST(x AS INTEGER)
TRY_CAST(x AS DOUBLE); LN(x); LOG10(x); LOG(2, x); REGEXP_REPLACE(x, 'a\\d', 'b', 'g')
x LIKE 'a_b%'; x LIKE 'a!_b' ESCAPE '!'
STRFTIME(x, '%Y-%m-%d')
SUBSTRING(x, 1, 2); SUBSTRING(x, -2, 1); LEFT(x, 2); MEDIAN(x); DATE_TRUNC('week', x)
CAST(x AS DATE) - 3; x / 3.0; x - y
CAST(x AS DATE) - INTERVAL 1 DAY
"""


class NoSpark:
    """An engine that must not be asked."""

    name = "pyspark"


@pytest.mark.parametrize("words", re.split(r"; |\n", DIFFERENT.strip()))
def test_what_spark_answers_differently_is_rejected_before_it_runs(words, tmp_path):
    for text in (
        f"SELECT {words} AS a FROM t;",
        f"WITH b AS (SELECT 1 AS x, COUNT({words}) OVER () AS c FROM t) SELECT x FROM b -- the end",
    ):
        with pytest.raises(
            ProjectError,
            match=r"DuckDB and Spark give different results for this:\n  .*: write \S.*\.$",
        ) as rejected:
            parquet.write_query(NoSpark(), text, example_contract(), tmp_path / "out")
        assert "None" not in str(rejected.value)


def test_what_both_engines_answer_alike_is_accepted():
    for words in re.split(r"; |\n", ALIKE.strip()):
        sql.reject_incompatible_sql(f"SELECT {words} AS a FROM t")
    sql.reject_incompatible_sql((ROOT / QUERY).read_text())
    sql.reject_incompatible_sql(SQL.format(order="e.number"))


@pytest.mark.slow
@spark
def test_what_is_rejected_does_differ(events, tmp_path, cluster):
    """What to write instead does not."""
    at = "(SELECT CAST(e.at AS TIMESTAMP) AS x, word, number FROM events AS e) AS t"
    differs = {
        "EXTRACT(dow FROM x)": (
            "MOD(MOD(DATE_DIFF('day', TIMESTAMP '1601-01-01 00:00:00', x), 7) + 7, 7) + 1"
        ),
        "DATE_DIFF('month', x, TIMESTAMP '2025-03-01 00:00:00')": (
            "12 * (2025 - YEAR(x)) + 3 - MONTH(x)"
        ),
        "CASE WHEN LOG(number + 1) > 2 THEN 1 ELSE 0 END": (
            "CASE WHEN LOG10(number + 1) > 2 THEN 1 ELSE 0 END"
        ),
        "LENGTH(REGEXP_REPLACE(word, 'o', ''))": "LENGTH(REGEXP_REPLACE(word, 'o', '', 'g'))",
        "LENGTH(MONTHNAME(x))": "LENGTH(STRFTIME(x, '%B'))",
        "LENGTH(LEFT(word, -1))": "LENGTH(SUBSTRING(word, 1, LENGTH(word) - 1))",
    }
    results = {}
    for kind in engines.ENGINES:
        (tmp_path / kind).mkdir()
        with engines.open_engine(kind, 2, tmp_path / kind) as engine:
            engines.load(
                engine,
                "events",
                local_files("events", events[0]["events"], tmp_path / kind),
                tmp_path / kind,
            )
            for words in [*differs, *differs.values()]:
                rows = engine.sql(
                    f"SELECT {words} AS a FROM {at} ORDER BY number", dialect="duckdb"
                ).to_pandas()["a"]
                results[kind, words] = rows.astype(int).tolist()
    for rejected, instead in differs.items():
        assert results["duckdb", rejected] != results["pyspark", rejected], rejected
        assert results["duckdb", instead] == results["pyspark", instead], instead


@pytest.mark.slow
@spark
def test_faults_of_spark_are_told(events, tmp_path, monkeypatch):
    sources, contract = events
    (tmp_path / "query.sql").write_text("SELECT nowhere FROM events")
    with pytest.raises(
        ProjectError, match="query.sql failed on the sources of params.yaml .*nowhere"
    ):
        run_query(sources, "query.sql", 2, contract, tmp_path, "pyspark")
    monkeypatch.setenv("MLE_SPARK_MASTER", "nonsense")
    with pytest.raises(
        ProjectError, match="(?s)Spark does not start on nonsense. .*Java 17.*nonsense"
    ):
        run_query(sources, "query.sql", 2, contract, tmp_path, "pyspark")
