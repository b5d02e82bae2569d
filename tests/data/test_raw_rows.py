"""Raw rows through the query: to the bit what training made of them, or an error with a place."""

import json
import math
import random
import threading
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mle_project.core.contract import parse_contract
from mle_project.core.project import ProjectError
from mle_project.data.encodings import duckdb_path
from mle_project.data.query_record import query_json, query_record, query_sentence
from mle_project.data.raw_rows import (
    ROW,
    QueryRunner,
    RawRowError,
    file_forms,
    parse_query_record,
    require_columns,
    scan,
)
from mle_project.data.sources import local_files

KINDS = {"number": "number", "day": "timestamp", "sum": "number", "count": "integer"}
KINDS |= {"town": "string", "member": "boolean", "weekday": "integer"}


def contract_of(columns):
    "A contract whose features are some columns; the target is `left`."
    lines = ["description: One customer.", "task: binary", "columns:"]
    for name in [*columns, "left"]:
        role = {"left": "target", "day": "time"}.get(name, "feature")
        when = "after" if name == "left" else "before"
        role += f", available: {when}_prediction"
        role += ", nullable: true" if role.startswith("feature") else ""
        kind = "boolean" if name == "left" else KINDS[name]
        lines.append(f"  {name}: {{type: {kind}, description: It., role: {role}}}")
    return parse_contract("\n".join(lines), "contract.yaml")


def german(value):
    return "k.A." if value is None else f"{value:_.2f}".replace(".", ",").replace("_", ".")


def people(count, seed=0):
    "Rows as Python values."
    draw = random.Random(seed)
    for number in range(count):
        yield {
            "number": number,
            "day": f"{draw.randint(2020, 2024)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}",
            "sum": None if draw.random() < 0.1 else round(draw.lognormvariate(6, 2), 2),
            "count": None if draw.random() < 0.1 else draw.randint(-5, 10**9),
            "town": draw.choice(["Köln", "New York", "O'Fallon", 'the "Hague"', None]),
            "member": draw.choice([True, False, None]),
            "left": draw.choice([True, False]),
        }


GERMAN_SQL = '''
WITH typed AS (
  SELECT "Kunde Nr." AS number, CAST("Tag" AS TIMESTAMP) AS day,
    CAST(REPLACE(REPLACE("Umsatz (€)", '.', ''), ',', '.') AS DOUBLE) AS sum,
    "Anzahl" AS count, "Ort; ""Stadt""" AS town,
    CAST(REPLACE(REPLACE("Mitglied", 'ja', 'true'), 'nein', 'false') AS BOOLEAN) AS member,
    "weg" = 'ja' AS "left"
  FROM kunden
)
SELECT *, CAST(isodow(day) AS INTEGER) AS weekday FROM typed WHERE number % 7 <> 3
'''


def german_row(person):
    "A row as a German spreadsheet has it."
    year, month, day = person["day"].split("-")
    words = {True: "ja", False: "nein", None: ""}
    return {
        "Kunde Nr.": str(person["number"]),
        "Tag": f"{day}.{month}.{year}",
        "Umsatz (€)": german(person["sum"]),
        "Anzahl": "" if person["count"] is None else str(person["count"]),
        'Ort; "Stadt"': person["town"] or "",
        "Mitglied": words[person["member"]],
        "weg": words[person["left"]],
    }


def quoted_line(cells):
    return ";".join('"' + cell.replace('"', '""') + '"' for cell in cells)


def write_csv(path, rows):
    "A file with semicolons, in a Western encoding, every text in quotes."
    lines = [quoted_line(rows[0]), *(quoted_line(row.values()) for row in rows)]
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode("cp1252"))


class Table:
    "A table with a query: its raw rows, what the whole query makes of them, and a runner."

    def __init__(self, folder, sql, sources, rows, contract):
        files = {name: local_files(name, source, folder) for name, source in sources.items()}
        self.record = query_record(sql, sources, files, contract, folder)
        self.contract = contract
        self.rows = rows
        self.files = files
        self.runner = QueryRunner(json.loads(query_json(self.record)), contract)


@pytest.fixture(scope="module")
def spreadsheet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("german")
    rows = [german_row(person) for person in people(700)]
    write_csv(folder / "kunden.csv", rows)
    source = {"path": str(folder / "kunden.csv"), "encoding": "cp1252", "null_values": "k.A."}
    contract = contract_of(KINDS)
    return Table(folder, GERMAN_SQL, {"kunden": source}, rows, contract)


LINES_SQL = """SELECT number, day, sum, count, s.name AS town, member, NOT stays AS "left",
  CAST(isodow(day) AS INTEGER) AS weekday
  FROM people LEFT JOIN towns s ON s.id = people.place.id"""


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def nested_row(person):
    place = {"id": person["number"] % 5}
    day = f"{person['day']}T10:20:30"
    row = person | {"day": day, "place": place, "stays": not person["left"]}
    return without(row, "left", "town")


def typed_row(person):
    cash = None if person["sum"] is None else Decimal(str(person["sum"]))
    row = person | {"cash": cash, "when": f"{person['day']} 10:00:00+02:00"}
    return without(row, "day", "sum")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    "JSON lines with nested values, and towns in a file beside."
    folder = tmp_path_factory.mktemp("lines")
    rows = [nested_row(person) for person in people(500, seed=1)]
    (folder / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "towns.csv").write_text("id,name\n" + "".join(f"{i},town {i}\n" for i in range(4)))
    names = {"people": "people.jsonl", "towns": "towns.csv"}
    sources = {name: {"path": str(folder / file)} for name, file in names.items()}
    table = Table(folder, LINES_SQL, sources, rows, contract_of(KINDS))
    towns = [{"id": str(i), "name": f"town {i}"} for i in range(4)]
    table.runner.add_source("towns", towns)
    return table


PARQUET_SQL = """SELECT number, "when" AS day, CAST(cash AS DOUBLE) / 3 AS sum, count, town,
  member, "left", CAST(NULL AS INTEGER) AS weekday FROM people"""


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    "A Parquet file with decimals, small floats and moments of a zone."
    folder = tmp_path_factory.mktemp("typed")
    rows = [typed_row(person) for person in people(400, seed=2)]
    kinds = {"number": pa.float32(), "count": pa.int32(), "town": pa.string()}
    kinds |= {"member": pa.bool_(), "left": pa.bool_(), "cash": pa.decimal128(12, 2)}
    columns = pa.Table.from_pylist(rows, pa.schema(kinds.items()))
    moments = [row["when"] for row in rows]
    when = duckdb.sql("SELECT unnest($1)::TIMESTAMPTZ AS t", params=[moments]).to_arrow_table()
    pq.write_table(columns.append_column("when", when["t"]), folder / "people.parquet")
    sources = {"people": {"path": str(folder / "people.parquet")}}
    return Table(folder, PARQUET_SQL, sources, rows, contract_of(KINDS))


TABLES = ["spreadsheet", "lines", "typed"]


def bits(value):
    "A value that is equal only to the same one, bit for bit."
    return value.hex() if isinstance(value, float) else value


def whole(table):
    "What the stage `tables` makes of all rows: the query itself, on the sources as it reads them."
    import ibis

    from mle_project.data.engines import load

    engine = ibis.duckdb.connect()
    engine.raw_sql("SET TimeZone = 'UTC'")
    for name, files in table.files.items():
        load(engine, name, files, files.paths[0].parent)
    names = ", ".join(f'"{name}"' for name in table.runner.outputs)
    found = engine.con.execute(f"SELECT {names} FROM ({table.record['query']})").fetchall()
    return {row[0]: tuple(map(bits, row)) for row in found}


@pytest.mark.parametrize("name", TABLES)
def test_any_rows_alone_give_what_the_whole_query_gives(name, request):
    table = request.getfixturevalue(name)
    assert table.record["row_local"], query_sentence(table.record)
    assert not any("fault" in source for source in table.record["sources"].values())
    expected = whole(table)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(0, len(table.rows) - 1), max_size=30, unique=True))
    def check(chosen):
        made = table.runner.records([table.rows[one] for one in chosen])
        left = [one for place, one in enumerate(chosen) if place in made.rows]
        assert [one for one in chosen if one in expected] == left
        for one, record in zip(left, made.records, strict=True):
            assert tuple(bits(value) for value in record.values()) == expected[one]

    check()


def in_batches(table, kind, paths, size):
    "What the query makes of files, some rows at a time."
    first = 0
    source = table.record["driving_source"]
    for batch in scan(table.record, source, kind, paths, table.runner.wanted, size):
        yield table.runner.table(pa.Table.from_batches([batch]), first)
        first += len(batch)


@pytest.mark.parametrize("name", TABLES)
def test_a_file_in_batches_gives_the_same(name, request):
    table = request.getfixturevalue(name)
    source = table.record["driving_source"]
    files = table.files[source]
    paths = [duckdb_path(path) for path in files.paths]
    parts = [*in_batches(table, files.format, paths, size=128)]
    assert len(parts) > 2
    made = pa.concat_tables(parts)
    expected = whole(table)
    assert made[ROW].to_pylist() == [one for one in range(len(table.rows)) if one in expected]
    for row in made.to_pylist():
        number = row.pop(ROW)
        assert tuple(bits(value) for value in row.values()) == expected[number]


def test_types_are_those_of_training(spreadsheet):
    "A file of whole numbers, or a single day, does not change what a column is."
    row = spreadsheet.rows[0] | {"Umsatz (€)": "7", "Tag": "01.02.2024", "Anzahl": "12"}
    record = spreadsheet.runner.records([row]).records[0]
    assert type(record["sum"]) is float and record["day"].month == 2 and record["count"] == 12


def test_absent_words_of_the_target_are_not_missed(spreadsheet):
    assert spreadsheet.record["target_only_columns"] == [["kunden", "weg"]]
    row = {key: value for key, value in spreadsheet.rows[0].items() if key != "weg"}
    assert (
        spreadsheet.runner.records([row]).records
        == spreadsheet.runner.records([row | {"weg": "who knows"}]).records
    )


def test_a_column_that_a_feature_needs_is_missed_by_name(spreadsheet):
    row = {key: value for key, value in spreadsheet.rows[0].items() if key != "Tag"}
    with pytest.raises(
        RawRowError, match=r"row 1 .*`Tag` is absent.*`day` \(and 1 more\)"
    ) as error:
        spreadsheet.runner.records([spreadsheet.rows[0], row])
    assert (error.value.row, error.value.column) == (1, "Tag")
    outputs = spreadsheet.runner.outputs
    with pytest.raises(ProjectError, match=r"new.csv lacks the column `Tag`.*`day` \(and 1 more\)"):
        require_columns(spreadsheet.record, "kunden", [*row], outputs, "new.csv")


def test_the_number_of_a_row_survives_a_filter(spreadsheet):
    made = spreadsheet.runner.records(spreadsheet.rows[:20])
    assert made.dropped(20) == [3, 10, 17]
    assert [record["number"] for record in made.records] == made.rows


HOSTILE = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["'; DROP TABLE kunden; --", '" || x || "', "$1", "1e999", "\x00", "\ud800", "NaN", "-0"]
        + ["９", "0x1F", "1_000", "31.02.2024", "99999999999999999999", "\u202e", "true", "k.A."]
    ),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.binary(max_size=4),
)


@pytest.mark.parametrize("name", ["spreadsheet", "lines", "typed"])
def test_hostile_values_are_values_or_errors_with_a_place(name, request):
    table = request.getfixturevalue(name)
    row = next(row for place, row in enumerate(table.rows) if place % 7 != 3)
    before = table.runner.records([row])

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(table.runner.wanted), HOSTILE)
    def check(column, value):
        try:
            made = table.runner.records([row, row | {column: value}, row])
            assert made.records[0] == before.records[0] and set(made.rows) >= {0, 2}
        except RawRowError as error:
            assert error.row == 1 and column in error.column
            if isinstance(value, str) and len(value) > 12:
                assert value not in str(error)

    check()
    assert table.runner.records([row]) == before


def test_a_misfit_says_what_would_fit(spreadsheet):
    row = spreadsheet.rows[0]
    for column, value, rule in [
        ("Anzahl", "3.5", "whole number"),
        ("Anzahl", 3.5, "whole number"),
        ("Anzahl", str(2**70), "whole number that its type holds"),
        ("Tag", "2024-01-31", "as in 31.12.2024"),
        ("Umsatz (€)", "teuer", "cannot make `sum` of"),
        ("Umsatz (€)", 1.234, "must be text"),
        ("Mitglied", True, "must be text"),
        ("Mitglied", "vielleicht", "cannot make `member` of"),
        ("Tag", ["x"], "must be text, a number"),
    ]:
        with pytest.raises(RawRowError, match=rule) as error:
            spreadsheet.runner.records([row, row | {column: value}])
        assert error.value.row == 1 and error.value.column == column
        with pytest.raises(RawRowError, match=rule):
            spreadsheet.runner.table([row, row | {column: value}])


def test_a_misfit_in_a_file_is_counted_through_the_file(spreadsheet, tmp_path):
    rows = [dict(row) for row in spreadsheet.rows[:300]]
    rows[211]["Anzahl"] = "viel"
    write_csv(tmp_path / "new.csv", rows)
    text = (tmp_path / "new.csv").read_bytes().decode("cp1252")
    (tmp_path / "new.csv").write_text(text, encoding="utf-8")
    with pytest.raises(RawRowError, match="row 211 .*`Anzahl`"):
        for _ in in_batches(spreadsheet, "csv", [str(tmp_path / "new.csv")], size=100):
            pass


def test_a_runner_opens_no_file_and_loads_nothing(spreadsheet, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    connection = spreadsheet.runner._engine.connection
    for sql in (
        f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
        f"ATTACH '{tmp_path}/x.duckdb'",
        "INSTALL httpfs",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        "SET enable_external_access = true",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(sql)


def test_two_callers_at_once_get_their_own_answers(spreadsheet):
    runner = spreadsheet.runner
    wrong = []

    def ask(start):
        for place in range(start, 300, 2):
            row = spreadsheet.rows[place]
            made = runner.records([row])
            wrong.extend(r for r in made.records if r["number"] != int(row["Kunde Nr."]))

    callers = [threading.Thread(target=ask, args=(start,)) for start in (0, 1)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


WINDOW_SQL = """SELECT "Kunde Nr." AS number, SUM("Anzahl") OVER before AS count,
  "weg" = 'ja' AS "left" FROM kunden
  WINDOW before AS (PARTITION BY "Mitglied" ORDER BY "Kunde Nr."
    ROWS BETWEEN 9 PRECEDING AND 1 PRECEDING)"""


def test_a_query_that_looks_at_other_rows_wants_them(spreadsheet, tmp_path):
    "New rows beside known ones give what they give in the whole table, and only they come out."
    sources = {"kunden": {"path": str(spreadsheet.files["kunden"].paths[0]), "null_values": "k.A."}}
    contract = contract_of(["number", "count"])
    record = query_record(WINDOW_SQL, sources, spreadsheet.files, contract, tmp_path)
    assert not record["row_local"] and "not row-local" in query_sentence(record)
    runner = QueryRunner(record, contract)
    with pytest.raises(ProjectError, match="a window"):
        runner.records(spreadsheet.rows[600:])
    files = spreadsheet.files["kunden"]
    for batch in scan(record, "kunden", "csv", [str(files.paths[0])], runner.wanted, 256):
        part = pa.Table.from_batches([batch])
        known = [int(number) < 600 for number in part["Kunde Nr."].to_pylist()]
        runner.add_source("kunden", part.filter(pa.array(known)))
    made = runner.records(spreadsheet.rows[600:])
    everything = QueryRunner(record | {"row_local": True}, contract)  # all rows there are
    expected = everything.records(spreadsheet.rows)
    assert made.rows == [*range(100)]
    assert made.records == expected.records[600:]
    assert len({record["count"] for record in made.records}) > 1


def test_rows_of_another_source_must_be_there(lines):
    runner = QueryRunner(lines.record, lines.contract)
    with pytest.raises(ProjectError, match="also reads towns"):
        runner.records(lines.rows[:1])


def test_a_row_that_gives_two_records_is_no_row_alone(tmp_path):
    (tmp_path / "a.csv").write_text("number,left\n" + "".join(f"{i},true\n" for i in range(50)))
    (tmp_path / "b.csv").write_text("id,count\n" + "".join(f"{i % 25},{i}\n" for i in range(50)))
    sources = {name: {"path": str(tmp_path / f"{name}.csv")} for name in "ab"}
    files = {name: local_files(name, source, tmp_path) for name, source in sources.items()}
    sql = 'SELECT number, count, "left" FROM a LEFT JOIN b ON b.id = a.number'
    record = query_record(sql, sources, files, contract_of(["number", "count"]), tmp_path)
    assert not record["row_local"] and "several records" in record["reason"]


def test_the_record_is_the_same_each_time_and_names_no_place(spreadsheet, tmp_path):
    source = {"path": "elsewhere", "encoding": "cp1252", "null_values": "k.A."}
    again = query_record(
        GERMAN_SQL, {"kunden": source}, spreadsheet.files, spreadsheet.contract, tmp_path
    )
    text = query_json(again)
    assert text == query_json(spreadsheet.record)
    assert str(spreadsheet.files["kunden"].paths[0].parent) not in text
    assert parse_query_record(text) == again
    with pytest.raises(ProjectError, match="version"):
        parse_query_record('{"version": 0}')


def test_the_form_of_a_file_is_seen_by_its_columns(spreadsheet):
    record = spreadsheet.record
    contract = spreadsheet.contract
    raw = [*spreadsheet.rows[0]]
    assert file_forms(record, contract, raw, raw) == ["raw"]
    assert file_forms(record, contract, [*KINDS], [*KINDS]) == ["contract"]
    assert file_forms(record, contract, ["number"], ["number"]) == []


def test_no_missing_number_is_a_number(typed):
    made = typed.runner.records([typed.rows[0] | {"count": None, "number": math.nan}])
    assert made.records[0]["count"] is None and made.records[0]["number"] is None


def test_a_value_that_only_a_filter_looks_at_is_named(spreadsheet, tmp_path):
    "Whatever is selected: the row's fault is the filter's column."
    source = {"path": "elsewhere", "encoding": "cp1252", "null_values": "k.A."}
    sql = """SELECT "Kunde Nr." AS number, "Anzahl" AS count, "weg" = 'ja' AS "left"
      FROM kunden WHERE CAST(REPLACE("Umsatz (€)", ',', '') AS VARCHAR) <> 'x'
        AND CAST(REPLACE(REPLACE("Mitglied", 'ja', '1'), 'nein', '0') AS INTEGER) >= 0"""
    contract = contract_of(["number", "count"])
    record = query_record(sql, {"kunden": source}, spreadsheet.files, contract, tmp_path)
    assert record["row_local"], record["reason"]
    runner = QueryRunner(record, contract)
    row = spreadsheet.rows[0]
    bad = row | {"Mitglied": "vielleicht"}
    with pytest.raises(RawRowError) as error:
        runner.records([row, bad])
    assert error.value.row == 1 and "Mitglied" in error.value.column
    errors = []
    assert len(runner.table([row, bad, row], 0, errors)) == 2
    assert [one.row for one in errors] == [1] and "Mitglied" in errors[0].column
