"""`mle adopt` on files made to hurt: what was decided, and what the query gives back.

The real query must give back what the test put in, within the contract.
"""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
import yaml
from projects import ROOT, git

from mle_project.adopt.plan import Plan, apply, as_dict, describe, diff, plan
from mle_project.adopt.profiling import split_shares
from mle_project.core.contract import CONTRACT_SCHEMA, ContractError, parse_contract, schema_comment
from mle_project.core.project import ProjectError
from mle_project.core.request_model import request_model
from mle_project.core.validation import violations
from mle_project.data.engines import run_query
from mle_project.data.parquet import validate_parquet
from mle_project.data.splits import write_splits
from mle_project.pipeline.parameters import PARAMS_SCHEMA

N = 600
chance = np.random.default_rng(7)
ANSWER = np.where(chance.random(N) < 0.3, "yes", "no")
SIGNAL = np.round(chance.normal(0, 1, N) + (ANSWER == "yes"), 6)


def adopt_files(
    project: Path, files: list[str], force: bool = False, **options
) -> tuple[Plan, pd.DataFrame]:
    "Adopt, then run the written query; the contract must hold for every row and column."
    proposal = plan(files, **options)
    apply(proposal, force)
    tables = yaml.safe_load((project / "params.yaml").read_text())["tables"]
    contract = parse_contract((project / "contract.yaml").read_text())
    folder = project / "run"
    folder.mkdir(exist_ok=True)
    parts = run_query(tables["sources"], tables["query"], 2, contract, folder)
    frame = pd.concat([pd.read_parquet(path) for path in parts], ignore_index=True)
    labeled = frame[contract.target.name].notna()
    for rows in (frame[labeled], frame[~labeled].drop(columns=contract.target.name)):
        broken = violations(rows, contract, list(rows.columns))
        assert not len(broken), broken.to_string()
    assert sqlglot.transpile((project / tables["query"]).read_text(), read="duckdb", write="spark")
    request_model(contract)
    return proposal, frame


def write_table(project: Path, frame: pd.DataFrame, name: str = "shop.csv", **form) -> str:
    frame.to_csv(project.parent / name, index=False, **form)
    return str(project.parent / name)


def base(**columns) -> pd.DataFrame:
    "A table with a target that can be learned, a row number and what the test adds."
    return pd.DataFrame({"row id": range(N), "signal": SIGNAL, **columns, "answer": ANSWER})


def by_row(frame: pd.DataFrame, column: str, key: str = "row_id") -> list:
    return frame.sort_values(key)[column].tolist()


def role(proposal: Plan, name: str) -> str:
    return next(d.role for d in proposal.decisions if d.name == name)


def has_note(proposal: Plan, *words: str) -> bool:
    return any(has_words(note, words) for note in proposal.notes)


def has_words(text: str, words: tuple[str, ...]) -> bool:
    return all(word in text for word in words)


def test_semicolons_latin_1_and_decimal_commas(project):
    towns = np.resize(np.array(["Köln", "Nürnberg", "Görlitz"]), N)
    price = np.round(np.linspace(-5, 1999.5, N), 2)
    table = base(Ort=towns, Größe=[f"{value:.2f}".replace(".", ",") for value in price])
    proposal, frame = adopt_files(
        project,
        [write_table(project, table, sep=";", encoding="latin-1", decimal=",")],
        target="answer",
    )
    assert (
        by_row(frame, "grosse") == price.tolist()
        and by_row(frame, "ort") == towns.tolist()
        and by_row(frame, "signal") == SIGNAL.tolist()
    )
    source = yaml.safe_load((project / "params.yaml").read_text())["tables"]["sources"]["shop"]
    assert source == {
        "path": "data/raw/shop.csv",
        "encoding": "latin-1",
        "all_text": True,
        "delimiter": ";",
    }
    assert (
        proposal.contract.labels == ["no", "yes"]
        and by_row(frame, "answer") == (ANSWER == "yes").tolist()
    )


ENCODINGS = {
    "utf-16": ["5 € – „ja“", "東京都"],
    "utf-16-le": ["Ümlaut", "Łódź"],
    "utf-8-sig": ["🙂", "Ärger"],
    "cp1252": ["5 € – „ja“", "Ümlaut"],
    "latin-1": ["Español", "¿qué?", "Ñandú"],
    "cp1250": ["Łódź", "Kraków", "Poznań", "Grażyna", "Żaneta"],
    "cp1251": ["Москва", "Казань", "Ольга", "Иван"],
    "shift_jis": ["東京都", "大阪市", "太郎", "花子"],
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_and_tabs(project, encoding):
    table = base(euro=np.resize(np.array(ENCODINGS[encoding]), N))
    proposal, frame = adopt_files(
        project,
        [write_table(project, table, "shop.tsv", sep="\t", encoding=encoding)],
        target="answer",
    )
    assert by_row(frame, "euro") == table["euro"].tolist() and has_note(proposal, "not UTF-8") == (
        not encoding.startswith("utf")
    )


def test_quoted_newlines_delimiters_and_quotes(project):
    texts = np.resize(np.array(['a "b", c', "two\nlines", "semi;colon", "tab\there"]), N)
    _, frame = adopt_files(project, [write_table(project, base(said=texts))], target="answer")
    assert by_row(frame, "said") == texts.tolist()


def test_dates_in_many_forms(project):
    days = pd.date_range("2021-01-05 07:00", periods=N, freq="29h")
    forms = {
        "german": "%d.%m.%Y",
        "american": "%m/%d/%Y %I:%M %p",
        "british": "%d/%m/%y",
        "iso": "%Y-%m-%d",
        "slashed": "%Y/%m/%d %H:%M:%S",
        "short": "%d-%b-%Y",
    }
    table = base(
        **{name: days.strftime(form) for name, form in forms.items()},
        zoned=days.strftime("%Y-%m-%dT%H:%M:%S+02:00"),
    )
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    for name, form in forms.items():
        assert (
            by_row(frame, name)
            == pd.to_datetime(pd.Series(days.strftime(form)), format=form).tolist()
        ), name
        assert role(proposal, name) == "ignored" and role(proposal, f"{name}_weekday") == "feature"
    assert by_row(frame, "zoned") == (days - pd.Timedelta("2h")).tolist()
    assert (
        by_row(frame, "german_weekday") == (days.dayofweek + 1).tolist()
        and by_row(frame, "american_hour") == days.hour.tolist()
    )
    assert by_row(frame, "iso_year") == days.year.tolist() and "iso_hour" not in frame
    assert not has_note(proposal, "whether the day or the month")


def test_ambiguous_dates_are_named_and_read_like_the_others(project):
    days = pd.to_datetime([f"2023-{1 + i % 12:02}-{1 + i % 11:02}" for i in range(N)])
    proposal, frame = adopt_files(
        project, [write_table(project, base(when=days.strftime("%d/%m/%Y")))], target="answer"
    )
    assert by_row(frame, "when_") == days.tolist() and has_note(
        proposal, "`when`", "whether the day or the month stands first"
    )
    table = base(when=days.strftime("%m/%d/%Y"), sure=[f"12/{13 + i % 18}/2023" for i in range(N)])
    commit_all(project)
    proposal, frame = adopt_files(
        project, [write_table(project, table, "other.csv")], target="answer"
    )
    assert by_row(frame, "when_") == days.tolist() and has_note(
        proposal, "`when`", "month-day-year"
    )


def commit_all(project: Path) -> None:
    git(project, "add", "-A")
    git(project, "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "more")


def test_the_days_of_monthly_dates_are_all_the_same(project):
    table = base(month=[f"{1 + i % 12}/1/2023" for i in range(N)])
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert sorted(set(frame["month"].dt.day)) == [1] and sorted(set(frame["month_month"])) == list(
        range(1, 13)
    )


def test_booleans_in_words(project):
    truth = chance.random(N) < 0.5
    pairs = {
        "english": ("Yes", "No"),
        "german": ("ja", "nein"),
        "french": ("oui", "non"),
        "letter": ("Y", "N"),
        "plain": ("TRUE", "false"),
        "switch": ("on", "off"),
    }
    table = base(
        **{name: np.where(truth, *words) for name, words in pairs.items()},
        digit=truth.astype(int),
        third=np.resize(["yes", "no", "perhaps"], N),
    )
    table.loc[3, "german"] = "?"
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    for name in set(pairs) - {"german"}:
        assert by_row(frame, name) == truth.tolist()
    assert by_row(frame, "german")[:3] == truth[:3].tolist() and frame.sort_values("row_id")[
        "german"
    ].isna().tolist() == [i == 3 for i in range(N)]
    types = {d.name: d.kind for d in proposal.decisions}
    assert (
        types["digit"] == "integer"
        and types["third"] == "string"
        and proposal.contract.columns["german"].nullable
    )


def test_numbers_as_people_write_them(project):
    value = np.round(np.geomspace(1, 4_000_000, N), 2)
    english = [f"{v:,.2f}" for v in value]
    swap = str.maketrans({",": ".", ".": ","})
    table = base(
        english=english,
        german=[text.translate(swap) for text in english],
        french=[text.replace(",", "\u202f").replace(".", ",") for text in english],
        swiss=[text.replace(",", "'") for text in english],
        whole=[f"{int(v):,}" for v in value],
        share=[f"{v:.1f} %" for v in value],
        money=[f"$ {v:,.2f}" for v in value],
        exponent=[f"{v:.6e}" for v in value],
    )
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    for name in ("english", "german", "french", "swiss", "money"):
        assert by_row(frame, name) == value.tolist(), name
    assert by_row(frame, "whole") == value.astype(int).tolist() and by_row(frame, "share") == [
        float(f"{v:.1f}") for v in value
    ]
    np.testing.assert_allclose(by_row(frame, "exponent"), value, rtol=1e-6)
    types = {d.name: (d.kind, d.unit) for d in proposal.decisions}
    assert (
        types["whole"] == ("integer", "")
        and types["share"] == ("number", "%")
        and types["money"] == ("number", "$")
    )


def test_doubtful_thousands_are_named(project):
    table = base(amount=[f"{1 + i % 9},{i:03}" for i in range(N)])
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert by_row(frame, "amount")[:2] == [1000, 2001] and has_note(
        proposal, "`amount`", "1,234 can be read in two ways"
    )


def test_one_wrong_value_keeps_a_column_text_and_is_named(project):
    table = base(amount=[str(i % 40) for i in range(N)])
    table.loc[N - 1, "amount"] = "12O"
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert by_row(frame, "amount")[-1] == "12O" and has_note(
        proposal, "`amount` stays text: 1 of 600", "'12O'"
    )
    for option in ("target", "time"):  # and in a rejection
        with pytest.raises(ProjectError, match="1 of 600 values are no whole numbers .'12O'."):
            plan(
                [write_table(project, table.assign(amount=[*map(str, range(N - 1)), "12O"]))],
                **{"target": "answer", option: "amount"},
            )


def test_numbers_and_dates_in_a_form_that_is_not_read_are_named(project):
    booked = [f"{i % 50},234.50 Cr" if i % 2 else f"{i % 50},117.25 Dr" for i in range(N)]
    mixed = [f"2024-01-{i % 28 + 1:02}" if i % 2 else f"{i % 28 + 1:02}/01/2024" for i in range(N)]
    proposal, _ = adopt_files(
        project,
        [
            write_table(
                project, base(booked=booked, mixed=mixed, word=np.resize(["north", "a-1"], N))
            )
        ],
        target="answer",
    )
    assert (
        has_note(proposal, "`booked` stays text", "234.50 Cr")
        and has_note(proposal, "`mixed` stays text")
        and not has_note(proposal, "`word`")
    )


def test_very_small_numbers_are_numbers(project):
    small = [f"{0.1 + i / N:.4f}e-{i % 61}" for i in range(N)]
    proposal, frame = adopt_files(project, [write_table(project, base(p=small))], target="answer")
    assert role(proposal, "p") == "feature" and by_row(frame, "p") == [
        float(text) for text in small
    ]


def test_a_name_of_two_lines(project):
    proposal, frame = adopt_files(
        project,
        [write_table(project, base().rename(columns={"signal": "Signal\n(mV)"}))],
        target="answer",
    )
    assert (
        by_row(frame, "signal_m_v") == SIGNAL.tolist()
        and proposal.contract.columns["signal_m_v"].unit == "mV"
    )


@pytest.mark.parametrize("prefix", ["user", "C", "a-", "K7"])
def test_identifiers_are_counted_and_not_estimated(project, prefix):
    for rows in (200, 500):
        table = (
            base()
            .drop(columns="row id")
            .head(rows)
            .assign(employee=[f"{prefix}{i:05}" for i in range(rows)])
        )
        assert role(plan([write_table(project, table)], target="answer"), "employee") == "id"


def test_a_sign_in_many_rows_is_a_class_and_in_few_a_gap(project):
    proposal = plan([write_table(project, base(found=np.resize(["+", "-"], N)))], target="found")
    assert proposal.contract.labels == ["-", "+"] or proposal.contract.labels == ["+", "-"]
    assert has_note(proposal, "`found`: - stands in 300 of 600 rows", "taken for a class")
    with pytest.raises(ProjectError, match="'-' was read as missing: write it as a word"):
        plan([write_table(project, base(found=np.resize(["+"] * 5 + ["-"], N)))], target="found")


def test_one_and_two_are_classes_without_a_meaning(project):
    proposal = plan(
        [write_table(project, base(grade=np.where(ANSWER == "yes", 2, 1)))], target="grade"
    )
    assert "as it is the rarer one" in proposal.target.why and proposal.contract.labels == [
        "1",
        "2",
    ]


def test_a_line_that_begins_with_a_number_sign_is_a_row(project):
    table = base(tag=[f"t{i % 5}" for i in range(N)]).rename(columns={"row id": "#row id"})
    table["#row id"] = [f"#{i}" if i % 7 == 0 else str(i) for i in range(N)]
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert proposal.rows == len(frame) == N and sorted(frame["row_id"]) == sorted(table["#row id"])


def test_leading_zeros_stay_text(project):
    table = base(postcode=[f"{i % 30:05}" for i in range(N)], small=np.round(chance.random(N), 3))
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert (
        by_row(frame, "postcode") == table["postcode"].tolist()
        and proposal.contract.columns["small"].type == "number"
    )


def test_words_for_gaps_depend_on_the_column(project):
    number = [str(i / 4) if i % 5 else ("n/a", "?", "-", "#N/A")[i // 5 % 4] for i in range(N)]
    table = base(
        number=number,
        country=np.resize(["NA", "DE", "FR"], N),
        state=np.resize(["none", "open", "N/A"], N),
    )
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert [None if pd.isna(v) else v for v in by_row(frame, "number")] == [
        i / 4 if i % 5 else None for i in range(N)
    ]
    assert by_row(frame, "country") == table["country"].tolist()
    assert [None if pd.isna(v) else v for v in by_row(frame, "state")] == np.where(
        table["state"] == "N/A", None, table["state"]
    ).tolist()
    assert (
        proposal.contract.columns["number"].nullable
        and not proposal.contract.columns["country"].nullable
        and has_note(proposal, "`country`", "kept as values")
    )


def test_a_word_that_is_a_gap_among_numbers_is_one_among_texts_too(project):
    table = base(
        number=[str(i % 9) if i % 5 else "NA" for i in range(N)],
        maker=np.resize(["NA", "Ford", "none"], N),
    )
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert [None if pd.isna(v) else v for v in by_row(frame, "maker")[:3]] == [None, "Ford", "none"]
    assert has_note(proposal, "`maker`", "NA was read as missing, as it must be in other columns")


def test_names_that_nobody_should_give(project):
    hard = [
        "Größe (cm)",
        "2019",
        "select",
        "json",
        "copy",
        "schema",
        "model_config",
        "🙂",
        "日本",
        "a b",
        "A-B",
        "_hidden",
        'quo"te',
        "it's",
        "",
        "interval",
        "date",
    ]
    table = base(**{name: np.round(chance.random(N) * 100, 1) for name in hard})
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    names = [d.name for d in proposal.decisions]
    assert len(set(names)) == len(names) == len(hard) + 3 and all(
        name.isascii() and name.replace("_", "a").isalnum() for name in names
    )
    for name, place in zip(hard, names[2:], strict=False):
        assert by_row(frame, place) == table[name].tolist(), name
    assert proposal.contract.columns["grosse_cm"].unit == "cm" and not any(
        name.startswith("_") for name in names
    )


# words that mean something to DuckDB beside its keywords, and the names in our own SQL
WORDS_OF_SQL = [
    "rowid",
    "filename",
    "file_row_number",
    "index_col",
    "current_date",
    "current_timestamp",
    "current_user",
    "user",
    "localtime",
    "session_user",
    "today",
    "now",
    "columns",
    "struct_pack",
    "hash",
    "count",
    "sum",
    "min",
    "max",
    "length",
    "v",
    "x",
    "y",
    "n",
    "i",
    "t",
    "value",
    "word",
    "row_hash",
    "n_rows",
    "raw",
    "record",
    "few",
    "shop",
    "shop_typed",
    "shop_query",
    "one_row",
    "a",
]


def keywords() -> list[str]:
    "All words that DuckDB or this package's SQL may take for something else than a column."
    rows = duckdb.sql("SELECT DISTINCT keyword_name FROM duckdb_keywords() ORDER BY 1").fetchall()
    return list(dict.fromkeys([*WORDS_OF_SQL, *(row[0] for row in rows)]))


def keyword_columns(names: list[str]) -> dict[str, list]:
    "Numbers, words and days in turn, so that no two columns that stand together are alike."
    days = pd.date_range("2021-01-05", periods=N, freq="29h").strftime("%d.%m.%Y").tolist()
    columns = {}
    for place, name in enumerate(names):
        numbers = np.round(chance.random(N) * 100, 2)
        words = [f"{name} {number:.0f}" for number in numbers // 20]
        columns[name] = days if place % 10 == 2 else [numbers.tolist(), words][place % 2]
    return columns


@pytest.mark.parametrize("part", range(5))
def test_columns_may_be_called_like_any_word_of_sql(project, part):
    names = keywords()[part::5]
    columns = keyword_columns(names)
    table = pd.DataFrame({"row id": range(N), "signal": SIGNAL, **columns, "answer": ANSWER})
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert proposal.rows == N and proposal.target.counts == table["answer"].value_counts().to_dict()
    contract_columns = [d.name for d in proposal.decisions if d.cast][2:-1]
    for name, column in zip(names, contract_columns, strict=True):
        values = by_row(frame, column)
        if isinstance(columns[name][0], str) and columns[name][0][2] == ".":
            values = [value.strftime("%d.%m.%Y") for value in values]
        assert values == columns[name], name


@pytest.mark.parametrize("name", ["v", "x", "value", "word", "left", "at", "rowid"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_target_may_be_called_like_any_word_of_sql(project, name, kind):
    others = [other for other in ("v", "x", "n", "word", "left", "rowid") if other != name]
    table = pd.DataFrame({"row id": range(N), **keyword_columns(others), name: ANSWER})
    table[others[0]] = np.where(chance.random(N) < 0.5, None, "1")  # a gap is no gap of another's
    file = write_table(project, table)
    if kind == "parquet":
        file = file.replace(".csv", ".parquet")
        table.to_parquet(file, index=False)
    proposal, frame = adopt_files(project, [file], target=name)
    target = proposal.contract.target.name
    assert by_row(frame, target) == (ANSWER == "yes").tolist()
    assert proposal.target.counts == table[name].value_counts().to_dict()


def test_a_time_and_a_group_may_be_called_like_words_of_sql(project):
    days = pd.date_range("2021-01-05", periods=N, freq="1h").strftime("%Y-%m-%d %H:%M:%S")
    table = base(left=days, at=np.repeat(range(N // 10), 10))
    _, frame = adopt_files(
        project, [write_table(project, table)], target="answer", time="left", group="at"
    )
    assert by_row(frame, "left_") == pd.to_datetime(days).tolist()
    assert by_row(frame, "at_") == table["at"].tolist()


def test_a_table_may_be_called_like_a_part_of_the_query(project):
    visits = base(shop=np.resize([1, 2, 3], N))
    shops = pd.DataFrame({"shop": [1, 2, 3], "area": [10.5, 20.5, 30.5]})
    files = [
        write_table(project, visits, "shop_typed.csv"),
        write_table(project, shops, "shop_query.csv"),
    ]
    query = project.parent / "shop.sql"
    query.write_text("SELECT t.*, q.area FROM shop_typed AS t JOIN shop_query AS q USING (shop)")
    _, frame = adopt_files(project, files, target="answer", query=str(query))
    assert by_row(frame, "area")[:3] == [10.5, 20.5, 30.5]


def test_empty_constant_and_identifier_columns(project):
    table = base(
        empty="",
        nothing=np.resize(["NA", ""], N),
        same="x",
        uuid=[f"{i:08x}-0000-4000-8000-{i * 7919:012x}" for i in range(N)],
        customer_id=chance.integers(0, 150, N),
        shop_id=np.resize([3, 8, 11], N),
        price=chance.permutation(N * 3)[:N],
        remark=[f"the visitor number {i} said that it was fine and went on" for i in range(N)],
    )
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert [
        role(proposal, name)
        for name in (
            "row_id",
            "uuid",
            "empty",
            "nothing",
            "same",
            "customer_id",
            "remark",
            "shop_id",
            "price",
        )
    ] == [
        "id",
        "ignored",
        "ignored",
        "ignored",
        "ignored",
        "ignored",
        "ignored",
        "feature",
        "feature",
    ]
    assert proposal.contract.columns["shop_id"].categories == ("11", "3", "8") and by_row(
        frame, "shop_id"
    )[:3] == ["3", "8", "11"]
    assert has_note(proposal, "`customer_id`", "--group customer_id") and has_note(
        proposal, "`remark` is free text"
    )


def test_two_hundred_columns(project):
    table = base(**{f"x {i}": np.round(chance.normal(0, 10, N), 2) for i in range(200)})
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert (
        len(proposal.contract.features) == 201 and by_row(frame, "x_137") == table["x 137"].tolist()
    )


def test_fifty_rows(project):
    table = base().head(50)
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert len(frame) == 50 and proposal.split == {
        "kind": "random",
        "validation": 0.2,
        "test": 0.2,
        "seed": 0,
    }


def test_ten_thousand_categories(project):
    rows = 40_000
    table = pd.DataFrame(
        {
            "street": [f"street {i % 10_000}" for i in range(rows)],
            "x": chance.random(rows).round(4),
            "y": chance.choice(["no", "yes"], rows),
        }
    )
    proposal, frame = adopt_files(project, [write_table(project, table)], target="y")
    assert (
        role(proposal, "street") == "feature"
        and proposal.contract.columns["street"].categories == ()
        and has_note(proposal, "`street`", "different values")
    )
    assert frame["street"].nunique() == 10_000


def test_severe_imbalance(project):
    rows = 30_000
    y = np.arange(rows) % 500 == 0
    table = pd.DataFrame(
        {
            "x": chance.normal(0, 1, rows).round(3) + y,
            "z": chance.random(rows).round(3),
            "fraud": y.astype(int),
        }
    )
    proposal, frame = adopt_files(project, [write_table(project, table)], target="fraud")
    assert (
        proposal.target.counts == {"0": 29_940, "1": 60}
        and frame["fraud"].sum() == 60
        and has_note(proposal, "60 of 30,000 rows (0.20%)")
    )


def test_a_class_to_look_out_for_by_word_or_by_rarity(project):
    table = base(x=SIGNAL).assign(answer=np.where(ANSWER == "yes", "good", "bad"))
    proposal = plan([write_table(project, table)], target="answer")
    assert proposal.contract.labels == ["good", "bad"]  # by its word, though the more frequent one
    proposal = plan(
        [write_table(project, table.assign(answer=np.where(ANSWER == "yes", "north", "south")))],
        target="answer",
    )
    assert proposal.contract.labels == ["south", "north"] and "rarer" in proposal.target.why


def test_string_and_number_classes(project):
    words = np.resize(["oak", "ash", "elm", "fir"], N)
    table = base(x=(words == "oak") + chance.normal(0, 0.8, N)).assign(answer=words)
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert (
        proposal.contract.task == "multiclass"
        and proposal.contract.classes == ["ash", "elm", "fir", "oak"]
        and by_row(frame, "answer") == words.tolist()
    )
    commit_all(project)
    stars = np.resize([1, 2, 3, 4, 5], N)
    proposal, frame = adopt_files(
        project, [write_table(project, table.assign(answer=stars), "stars.csv")], target="answer"
    )
    assert (
        proposal.contract.task == "multiclass"
        and proposal.contract.classes == ["1", "2", "3", "4", "5"]
        and by_row(frame, "answer") == [str(s) for s in stars]
    )
    commit_all(project)
    proposal, frame = adopt_files(
        project,
        [write_table(project, table.assign(answer=stars), "again.csv")],
        target="answer",
        task="regression",
    )
    assert proposal.contract.task == "regression" and by_row(frame, "answer") == stars.tolist()


def tables_of(project: Path, proposal: Plan) -> dict[str, Path]:
    "The tables as the stage makes them of what was adopted."
    tables = yaml.safe_load((project / "params.yaml").read_text())["tables"]
    paths = sorted((project / "run").glob("*.parquet"))
    checked = validate_parquet(paths, proposal.contract, "it")
    folder = project / "tables"
    folder.mkdir()
    return write_splits(paths, proposal.contract, checked, tables["split"], None, folder)


def test_rows_without_a_target_are_unlabeled_and_counted(project):
    table = base(size=np.arange(N) % 7, town=np.resize(["Ulm", "Bonn", "Kiel"], N))
    table.loc[:59, "answer"] = "?"
    table.loc[:9, "size"] = None  # a gap that no other row has
    proposal, frame = adopt_files(project, [write_table(project, table)], target="answer")
    assert len(frame) == N and proposal.rows == N - 60
    assert has_note(proposal, "60 of 600 rows have no answer", "unlabeled.parquet")
    assert frame.loc[frame["answer"].isna(), "row_id"].tolist() == list(range(60))
    assert proposal.contract.columns["size"].nullable and role(proposal, "row_id") == "id"
    written = tables_of(project, proposal)
    unlabeled = pd.read_parquet(written.pop("unlabeled"))
    assert unlabeled["row_id"].tolist() == list(range(60)) and "answer" not in unlabeled
    assert unlabeled["signal"].tolist() == SIGNAL[:60].tolist()
    assert unlabeled["size"].isna().tolist() == [True] * 10 + [False] * 50
    labeled = pd.concat(map(pd.read_parquet, written.values())).sort_values("row_id")
    assert labeled["row_id"].tolist() == list(range(60, N))
    assert labeled["answer"].tolist() == (ANSWER[60:] == "yes").tolist()


def test_what_is_decided_of_labeled_rows_does_not_depend_on_the_others(project):
    table = base(size=np.arange(N) % 7, town=np.resize(["Ulm", "Bonn", "Kiel"], N))
    later = table.head(80).assign(**{"row id": range(N, N + 80), "town": "Rom", "answer": None})
    few = plan([write_table(project, table)], target="answer")
    all_rows = plan([write_table(project, pd.concat([later, table]))], target="answer")
    assert few.new_contents["contract.yaml"] == all_rows.new_contents["contract.yaml"]
    assert few.new_contents["sql/shop.sql"] == all_rows.new_contents["sql/shop.sql"]
    assert few.new_contents["params.yaml"] == all_rows.new_contents["params.yaml"]
    assert few.rows == all_rows.rows and few.target.counts == all_rows.target.counts


def test_a_key_that_rows_without_a_target_repeat_is_no_key(project):
    table = base()
    again = table.head(20).assign(answer="")
    proposal, frame = adopt_files(
        project, [write_table(project, pd.concat([table, again]))], target="answer"
    )
    assert role(proposal, "row_id") == "ignored" and len(frame) == N + 20
    assert len(pd.read_parquet(tables_of(project, proposal)["unlabeled"])) == 20


def test_rows_without_a_time_are_left_out_and_rows_without_a_target_are_not(project):
    days = pd.date_range("2024-01-01", periods=N).strftime("%Y-%m-%d").tolist()
    table = base(day=["", *days[1:]])
    table.loc[0:4, "answer"] = ""
    proposal, frame = adopt_files(
        project, [write_table(project, table)], target="answer", time="day"
    )
    assert len(frame) == N - 1 and frame["answer"].isna().sum() == 4
    assert has_note(proposal, "4 of 600 rows have no answer")
    assert has_note(proposal, "1 of 600 rows have no day and are left out by the query")


def test_copies_of_the_answer_are_kept_out(project):
    yes = ANSWER == "yes"
    table = base(
        copy_of_it=np.round(yes * 5 + chance.normal(0, 0.3, N), 3),
        reason=np.where(yes & (chance.random(N) < 0.6), chance.choice(["price", "quality"], N), ""),
    )
    proposal, _ = adopt_files(project, [write_table(project, table)], target="answer")
    assert [role(proposal, name) for name in ("copy_of_it", "reason", "signal")] == [
        "ignored",
        "ignored",
        "feature",
    ]
    assert (
        proposal.contract.columns["copy_of_it"].available
        == proposal.contract.columns["reason"].available
        == "after_prediction"
    )
    assert "`copy_of_it`" in proposal.notes[0] + proposal.notes[1] and has_note(
        proposal, "`reason`", "filled in only where the target is True"
    )


def test_a_copy_of_a_value_is_kept_out(project):
    price = np.round(chance.lognormal(5, 1, N), 2)
    table = pd.DataFrame(
        {
            "with tax": np.round(price * 1.19, 2),
            "area": np.round(price / 3 + chance.normal(0, 60, N), 1),
            "price": price,
        }
    )
    proposal, _ = adopt_files(project, [write_table(project, table)], target="price")
    assert (
        proposal.contract.task == "regression"
        and role(proposal, "with_tax") == "ignored"
        and role(proposal, "area") == "feature"
    )


def test_time_and_what_was_closed_after_it(project):
    opened = pd.date_range("2022-03-01", periods=N, freq="31h")
    table = base(
        opened_at=opened,
        closed_at=opened + pd.to_timedelta(chance.integers(1, 90, N), "h"),
        ordered_at=opened - pd.Timedelta("40D"),
    )
    proposal, frame = adopt_files(
        project, [write_table(project, table)], target="answer", time="opened_at"
    )
    assert role(proposal, "opened_at") == "time" and role(proposal, "closed_at") == "ignored"
    assert proposal.contract.columns["closed_at"].available == "after_prediction"
    assert {
        "opened_at_weekday",
        "opened_at_hour",
        "opened_at_month",
        "ordered_at_year",
        "ordered_at_month",
    } <= set(proposal.contract.features)
    assert not any(
        name.startswith("closed_at_") or name == "opened_at_year" for name in frame
    ) and has_note(proposal, "`closed_at` is later than the time")
    assert proposal.split["kind"] == "time"
    shares = [
        (frame["opened_at"] < pd.Timestamp(proposal.split[name])).mean()
        for name in ("validation", "test")
    ]
    assert abs(shares[0] - 0.7) < 0.01 and abs(shares[1] - 0.85) < 0.01


def test_groups(project):
    table = base(visitor=np.arange(N) // 10)
    proposal, frame = adopt_files(
        project, [write_table(project, table)], target="answer", group="visitor"
    )
    assert (
        role(proposal, "visitor") == "group"
        and proposal.split["kind"] == "group"
        and not has_note(proposal, "uneven")
    )
    large = base(site=np.where(np.arange(N) < 540, 0, np.arange(N) // 10))
    assert has_note(
        plan([write_table(project, large)], target="answer", group="site"),
        "the splits are uneven: ",
    )


def test_of_few_groups_those_are_chosen_that_come_near_the_shares(project):
    proposal, frame = adopt_files(
        project,
        [write_table(project, base(hospital=np.arange(N) % 12))],
        target="answer",
        group="hospital",
    )
    shares = split_shares(frame, proposal.contract, proposal.split)
    assert 0.15 < min(shares[1:]) <= max(shares[1:]) < 0.26


def test_protected_attributes_are_only_noted(project):
    proposal, _ = adopt_files(
        project,
        [
            write_table(
                project,
                base(
                    Sex=np.resize(["f", "m"], N),
                    marital_status=np.resize(["single", "married", "x"], N),
                ),
            )
        ],
        target="answer",
    )
    assert (
        role(proposal, "sex") == role(proposal, "marital_status") == "feature"
        and has_note(proposal, "`sex`", "protected")
        and proposal.contract.columns["sex"].slice
    )
    assert proposal.contract.protected == ["sex", "marital_status"]


def test_few_coarse_features_do_not_stop_the_graph(project):
    table = pd.DataFrame(
        {"a": chance.integers(0, 3, N), "b": chance.integers(0, 2, N), "y": ANSWER}
    )
    proposal, _ = adopt_files(project, [write_table(project, table)], target="y")
    assert (
        yaml.safe_load((project / "params.yaml").read_text())["leakage"]["max_duplicate_share"]
        == 1.0
        and "leakage.max_duplicate_share" in proposal.notes[0]
    )


def test_parquet_with_types(project):
    days = pd.date_range("2020-01-01", periods=N, freq="D")
    table = pa.table(
        {
            "row id": pa.array(range(N)),
            "price": pa.array([f"{i}.25" for i in range(N)]).cast(pa.decimal128(12, 2)),
            "day": pa.array(days.date),
            "moment": pa.array(days, pa.timestamp("us", tz="Europe/Berlin")),
            "kind": pa.array(np.resize(["a", "b", None], N)).dictionary_encode(),
            "small": pa.array((np.arange(N) % 9).astype("int8")),
            "open": pa.array(np.resize([True, False, None], N)),
            "list": pa.array([[1, 2]] * N),
            "ratio": pa.array(np.where(np.arange(N) % 50 == 0, np.inf, SIGNAL)),
            "text": pa.array([f"{i},5" for i in range(N)]),
            "answer": pa.array(ANSWER),
        }
    )
    pq.write_table(table, project.parent / "shop.parquet")
    proposal, frame = adopt_files(project, [str(project.parent / "shop.parquet")], target="answer")
    assert (
        by_row(frame, "price") == [i + 0.25 for i in range(N)]
        and by_row(frame, "day") == days.tolist()
        and by_row(frame, "text") == [i + 0.5 for i in range(N)]
    )
    assert by_row(frame, "moment") == pd.Series(days).tolist()  # written as UTC, shown in Berlin
    assert (
        frame["ratio"].isna().sum() == N // 50
        and proposal.contract.columns["kind"].categories == ("a", "b")
        and role(proposal, "list") == "ignored"
    )
    types = {d.name: d.kind for d in proposal.decisions}
    assert types["small"] == "integer" and types["open"] == "boolean" and types["ratio"] == "number"
    assert yaml.safe_load((project / "params.yaml").read_text())["tables"]["sources"]["shop"] == {
        "path": "data/raw/shop.parquet"
    }


def test_json_lines(project):
    base(
        when=pd.date_range("2024-01-01", periods=N, freq="h").strftime("%Y-%m-%dT%H:%M:%S")
    ).to_json(project.parent / "shop.jsonl", orient="records", lines=True)
    proposal, frame = adopt_files(
        project, [str(project.parent / "shop.jsonl")], target="answer", time="when"
    )
    assert by_row(frame, "signal") == SIGNAL.tolist() and proposal.split["kind"] == "time"


@pytest.mark.parametrize("packed", ["gz", "zip"])
def test_packed_files(project, packed):
    base().to_csv(project.parent / f"shop.csv.{packed}", index=False, encoding="latin-1")
    _, frame = adopt_files(project, [str(project.parent / f"shop.csv.{packed}")], target="answer")
    assert by_row(frame, "signal") == SIGNAL.tolist()


def test_several_files_of_one_table(project):
    for part in range(3):
        write_table(project, base().iloc[part * 200 : part * 200 + 200], f"part{part}.csv")
    proposal, frame = adopt_files(
        project, [str(project.parent / "part*.csv")], target="answer", name="parts"
    )
    assert by_row(frame, "signal") == SIGNAL.tolist() and sorted(
        p.name for p in (project / "data/raw/parts").iterdir()
    ) == [
        "part0.csv",
        "part1.csv",
        "part2.csv",
    ]
    write_table(project, base().drop(columns="signal").iloc[:200], "part1.csv")
    with pytest.raises(
        ProjectError, match=r"part1.csv has other columns than the first file .'signal'."
    ):
        plan([str(project.parent / "part*.csv")], target="answer", name="others")
    write_table(project, base()[["signal", "row id", "answer"]].iloc[:200], "part1.csv")
    with pytest.raises(
        ProjectError, match=r"part1.csv has the columns of the first file in another order"
    ):
        plan([str(project.parent / "part*.csv")], target="answer", name="others")
    base().to_parquet(project.parent / "more.parquet")
    with pytest.raises(
        ProjectError, match=r"are of several formats. Name files of one table, or say --query"
    ):
        plan(
            [str(project.parent / "part0.csv"), str(project.parent / "more.parquet")],
            target="answer",
        )


def test_a_query_over_guessed_dates_says_so(project):
    query = project.parent / "all.sql"
    query.write_text("SELECT * FROM shop")
    days = base(
        opened=[f"{i % 12 + 1:02}/{i % 11 + 1:02}/2024" for i in range(N)],
        closed=["2024-05-01", "2024-06-01"] * (N // 2),
    )
    proposal = plan([write_table(project, days, sep=";")], target="answer", query=str(query))
    assert has_note(
        proposal, "`opened` of shop", "the day or the month stands first"
    ) and not has_note(proposal, "`closed`", "stands first")


def test_two_tables_with_a_query(project):
    visits = base(shop=np.arange(N) % 4).drop(columns="row id").assign(visit_id=range(N))
    shops = pd.DataFrame(
        {
            "shop": range(4),
            "Fläche": [100.5, 80.0, 33.25, 7.0],
            "town": ["Köln", "Bonn", "Köln", "Ulm"],
        }
    )
    files = [
        write_table(project, visits, "visits.csv"),
        write_table(project, shops, "shops.csv", sep=";", encoding="latin-1"),
    ]
    query = project.parent / "joined.sql"
    query.write_text(
        "-- all visits\nWITH s AS (SELECT * FROM shops)\n"
        'SELECT v.*, s."Fläche", s.town FROM visits AS v JOIN s ON s.shop = v.shop; \n'
    )
    proposal, frame = adopt_files(project, files, target="answer", query=str(query))
    assert (
        by_row(frame, "flache", "visit_id")[:4] == [100.5, 80.0, 33.25, 7.0]
        and proposal.name == "joined"
        and role(proposal, "visit_id") == "id"
    )
    sources = yaml.safe_load((project / "params.yaml").read_text())["tables"]["sources"]
    assert (
        sources["visits"] == {"path": "data/raw/visits.csv", "delimiter": ","}
        and sources["shops"]["encoding"] == "latin-1"
    )
    query.write_text("SELECT nothing FROM visits")
    with pytest.raises(ProjectError, match="--query failed on the tables visits, shops"):
        plan(files, target="answer", query=str(query))


INVALID = {
    "absent target": (base(), {"target": "answr"}, "Did you mean 'answer'"),
    "one value": (base(flat="x"), {"target": "flat"}, "every row has the same value, 'x'"),
    "rare class": (
        base().assign(answer=np.where(np.arange(N) < 4, "c", ANSWER)),
        {"target": "answer"},
        "`c` has 4 rows; each class needs at least 10",
    ),
    "thousands of texts": (
        base(word=[f"w{i}" for i in range(N)]),
        {"target": "word"},
        "too many for classes",
    ),
    "few rows": (base().head(20), {"target": "answer"}, "20 rows have a value; at least 30"),
    "dates as target": (
        base(day=["2024-01-01", "2024-01-02"] * (N // 2)),
        {"target": "day"},
        "cannot be predicted",
    ),
    "nothing to learn from": (
        base()[["row id", "answer"]],
        {"target": "answer"},
        "no column is left for the model",
    ),
    "only a copy": (
        base(same=ANSWER)[["same", "answer"]],
        {"target": "answer"},
        "no column is left for the model. same: alone it reaches ROC AUC 1.000",
    ),
    "a forced task": (
        base(),
        {"target": "answer", "task": "regression"},
        "--task regression: `answer`",
    ),
    "text as time": (
        base(word="x"),
        {"target": "answer", "time": "word"},
        "--time word: the column holds text",
    ),
    "one moment": (
        base(day="2024-01-01"),
        {"target": "answer", "time": "day"},
        "fewer than three different moments",
    ),
    "a class later only": (
        base(n=range(N)).assign(answer=np.where(np.arange(N) < 550, "no", "yes")),
        {"target": "answer", "time": "n"},
        "cannot be split by time",
    ),
    "two groups": (
        base(half=np.arange(N) // 300),
        {"target": "answer", "group": "half"},
        "cannot be split by group",
    ),
    "one column twice": (
        base(),
        {"target": "answer", "group": "answer"},
        "one column cannot be two of them",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_cannot_be_adopted(project, case):
    table, options, message = INVALID[case]
    before = git(project, "status", "--porcelain")
    with pytest.raises(ProjectError) as rejection:
        plan([write_table(project, table)], **options)
    assert message in str(rejection.value) and git(project, "status", "--porcelain") == before


BROKEN = {
    "twice": (b"a,b,A ,y\n1,2,3,no\n", "'a', 'A' stand for more than one column"),
    "no header": (b"1,2.5,no\n2,3.5,yes\n3,4.5,no\n", "the first line holds values (1, 2.5)"),
    "ragged": (b"a,b,y\n1,2,no\n3,4\n5,6,yes\n", "line 3 has 2 cells and the header 3"),
    "too many cells": (
        b"a,b,y\n1,2,no\n3,4,yes\n5,6,yes,7\n",
        "line 4 has 4 cells and the header 3",
    ),
    "empty": (b"", "is empty"),
    "header only": (b"a,b,y\n", "no rows"),
    "one column": (b"y\n1\n2\n", "one column only"),
    "lines before": (b"a report\nof May\na,b,y\n1,2,no\n3,4,yes\n", "before the header"),
    "single quotes": (b"a,b,y\n'x, z',2,no\n'u, v',4,yes\n'x, z',2,no\n", "single quotes"),
    "not parquet": (b"PAR1 no", "shop.parquet"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(project, case):
    content, message = BROKEN[case]
    path = project.parent / ("shop.parquet" if case == "not parquet" else "shop.csv")
    path.write_bytes(content)
    with pytest.raises(ProjectError) as rejection:
        plan([str(path)], target="y")
    assert message in str(rejection.value)


def test_files_that_are_no_tables(project):
    contents = {
        "book.xlsx": b"PK..",
        "cut.csv.gz": gzip.compress(b"a,y\n1,2\n" * 99)[:-9],
        "no.csv.zip": b"PK no archive",
        "all.sqlite": b"SQLite",
    }
    for name, content in contents.items():
        (project.parent / name).write_bytes(content)
    for files, message in (
        [["nowhere.csv"], "nowhere.csv is not a file"],
        [[], "no file is named"],
        [
            [str(project.parent / "book.xlsx")],
            "book.xlsx is .* of .csv.* Convert it, or correct its ending.$",
        ],
        [
            [str(project.parent / "all.sqlite")],
            "all.sqlite is a database. Write its table to a CSV or Parquet file",
        ],
        [[str(project.parent / "cut.csv.gz")], "cut.csv.gz is broken or cut off"],
        [[str(project.parent / "no.csv.zip")], "no.csv.zip is broken or cut off"],
    ):
        with pytest.raises(ProjectError, match=message):
            plan(files, target="y")


def test_a_plan_changes_nothing_and_shows_everything(project):
    file = write_table(project, base(when=pd.date_range("2024-01-01", periods=N)))
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    proposal = plan([file], target="answer")
    output = diff(proposal)
    assert (
        "+++ b/contract.yaml" in output
        and "+task: binary" in output
        and "-  query: sql/earlier.sql" in output
    )
    assert "--- a/sql/availability.yaml" in output
    assert (
        "signal" in describe(proposal)
        and "1. `when_` holds moments" in describe(proposal)
        and as_dict(proposal)["columns"][0]["role"] == "id"
    )
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    assert (
        describe(plan([file], target="answer")) == describe(proposal)
        and plan([file], target="answer").new_contents == proposal.new_contents
    )


def test_what_is_written(project):
    proposal, _ = adopt_files(project, [write_table(project, base())], target="answer")
    assert sorted(path.name for path in (project / "sql").iterdir()) == [
        "features.sql",
        "shop.sql",
    ]
    assert (project / "params.yaml").read_text().startswith("# The parameters.\n") and list(
        (project / "data" / "raw").iterdir()
    ) == [project / "data/raw/shop.csv"]
    readme = (project / "README.md").read_text()
    assert readme.startswith(
        "# A project\n\n<!-- table -->\nThe table: One row of shop.csv."
    ) and readme.endswith("<!-- /table -->\n\nThe end.\n")
    assert not [path for path in project.rglob("*") if path.suffix in (".bak", ".new", ".old")]
    contract = (project / "contract.yaml").read_text()
    assert contract.startswith(schema_comment(CONTRACT_SCHEMA)) and contract.count("  # ") == len(
        proposal.decisions
    )
    subprocess.run(
        ["check-jsonschema", "--schemafile", ROOT / CONTRACT_SCHEMA, project / "contract.yaml"],
        check=True,
    )


def test_the_comments_of_the_real_parameters_stay(project):
    (project / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    commit_all(project)
    proposal = plan([write_table(project, base())], target="answer")
    old = (ROOT / "params.yaml").read_text().splitlines()
    new = proposal.new_contents["params.yaml"].splitlines()
    assert [line for line in old if line.strip().startswith("#")] == [
        line for line in new if line.strip().startswith("#")
    ]
    assert new[0] + "\n" == schema_comment(PARAMS_SCHEMA)
    assert set(new) - set(old) <= {
        line
        for line in new
        if line.strip().startswith(("shop:", "query:", "split:", "max_rows:", "n_folds:"))
    }


def test_uncommitted_work_is_not_overwritten(project):
    file = write_table(project, base())
    (project / "contract.yaml").write_text("record: mine\n")
    proposal = plan([file], target="answer")
    with pytest.raises(ProjectError, match="contract.yaml: git does not have the present content"):
        apply(proposal)
    assert (project / "contract.yaml").read_text() == "record: mine\n" and not (
        project / "data"
    ).exists()
    apply(proposal, force=True)
    assert (project / "contract.yaml.bak").read_text() == "record: mine\n" and (
        project / "sql" / "earlier.sql.bak"
    ).exists()
    assert parse_contract((project / "contract.yaml").read_text()).task == "binary"


def test_without_git_the_old_files_are_kept(project):
    shutil.rmtree(project / ".git")
    adopt_files(project, [write_table(project, base())], target="answer")
    assert (project / "contract.yaml.bak").read_text() == "description: earlier\n" and (
        project / "sql" / "availability.yaml.bak"
    ).exists()


def test_data_of_the_same_name_are_not_overwritten(project):
    file = write_table(project, base())
    (project / "data" / "raw").mkdir(parents=True)
    (project / "data" / "raw" / "shop.csv").write_text("something else\n")
    proposal = plan([file], target="answer")
    with pytest.raises(ProjectError, match="data/raw/shop.csv exists and holds something else"):
        apply(proposal)
    apply(proposal, force=True)
    assert (project / "data/raw/shop.csv.bak").read_text() == "something else\n" and (
        project / "data/raw/shop.csv"
    ).read_bytes() == Path(file).read_bytes()


def test_data_in_place_are_used_as_they_are(project):
    (project / "data" / "raw").mkdir(parents=True)
    base().to_csv(project / "data" / "raw" / "mine.csv", index=False)
    proposal, _ = adopt_files(project, ["data/raw/mine.csv"], target="answer")
    assert proposal.data_copies == {} and os.listdir(project / "data" / "raw") == ["mine.csv"]


def test_a_fault_in_the_middle_leaves_everything_as_it_was(project):
    proposal = plan([write_table(project, base())], target="answer")
    (project / "sql" / "availability.yaml").unlink()
    (
        project / "sql" / "availability.yaml"
    ).mkdir()  # the last of the files to go cannot go: a folder is there
    (project / "sql" / "availability.yaml" / "inside").write_text("x")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(ProjectError, match="a folder is in the way. Nothing was changed"):
        apply(proposal, force=True)
    assert {
        path: path.read_bytes() for path in project.rglob("*") if path.is_file()
    } == before and not (project / "data").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_read_only_folder_leaves_everything_as_it_was(project):
    proposal = plan([write_table(project, base())], target="answer")
    (project / "sql").chmod(0o555)
    with pytest.raises(ProjectError, match="Nothing was changed"):
        apply(proposal)
    (project / "sql").chmod(0o755)
    assert git(project, "status", "--porcelain") == ""


def test_a_value_that_does_not_fit_later_stops_the_query(project):
    sizes = [f"{i}.000,5" if i % 2 else f"{i}.000" for i in range(N)]
    table = base(
        open=np.resize(["yes", "no"], N),
        size=sizes,
        age=[f"{i % 7 + 33}" for i in range(N)],
        sum=[f"{i % 9 + 1} 000" for i in range(N)],
    )
    adopt_files(project, [write_table(project, table)], target="answer")
    path = project / "data" / "raw" / "shop.csv"
    for old, new in (
        (",yes,", ",perhaps,"),
        (",no,", ",n0,"),
        (",37,", ",37.7,"),
        (",4 000,", ",4 000.7,"),
    ):
        text = path.read_text()
        path.write_text(text.replace(old, new, 1))
        tables = yaml.safe_load((project / "params.yaml").read_text())["tables"]
        contract = parse_contract((project / "contract.yaml").read_text())
        with pytest.raises((ProjectError, ContractError), match="Could not convert"):
            folder = project / f"run{old.strip(', ')}"
            folder.mkdir()
            run_query(tables["sources"], tables["query"], 2, contract, folder)
        path.write_text(text)
