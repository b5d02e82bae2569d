"""Files in the form of their source: read as in training, through the query, to predictions."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from raw_files_of_a_shop import DOORS, JOINED, ROW_LOCAL, WINDOW, Shop, pd_table, raw_visits

from mle_project.cli.main import main
from mle_project.core.project import ProjectError
from mle_project.data import raw_rows
from mle_project.data.raw_rows import QueryRunner
from mle_project.scoring.raw_files import RawInput, open_raw_files, raw_chunks, recognise_form


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"), ROW_LOCAL, raw_visits())


@pytest.fixture(scope="module")
def joined(tmp_path_factory) -> Shop:
    raw = raw_visits()
    return Shop(tmp_path_factory.mktemp("joined"), JOINED, raw.assign(door=raw["door"].str[:1]))


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Shop:
    return Shop(tmp_path_factory.mktemp("window"), WINDOW, raw_visits())


def write(raw: pd.DataFrame, path: Path, sep: str = ";", encoding: str = "cp1252") -> Path:
    raw.to_csv(path, index=False, sep=sep, encoding=encoding)
    return path


@pytest.mark.parametrize("name", ["new.csv", "new.csv.gz", "new.parquet", "new.jsonl", "utf8.csv"])
def test_new_rows_of_the_file_get_the_answers_of_training(shop, tmp_path, name):
    file = tmp_path / name
    new = shop.raw.iloc[300:450].drop(columns="back")
    if name == "new.parquet":
        new.to_parquet(file)
    elif name == "new.jsonl":
        new.replace("-", None).to_json(file, orient="records", lines=True)
    else:
        write(new, file, encoding="utf-8" if name == "utf8.csv" else "cp1252")
    code, output, answers = shop.score(file)
    assert code == 0, output
    assert f"{name} is read in the form of the source `visits`" in output
    assert answers["row"].tolist() == [*range(150)]
    assert answers["visit"].tolist() == [*range(300, 450)]
    np.testing.assert_array_equal(answers["probability"], shop.expected[300:450])


def test_a_head_that_is_not_utf_8_is_read_as_the_source_was(shop, tmp_path):
    new = shop.raw.head(20).assign(**{"Größe": "ß"})
    code, output, answers = shop.score(write(new, tmp_path / "umlaut.csv"))
    assert code == 0, output
    np.testing.assert_array_equal(answers["probability"], shop.expected[:20])


def test_chunks_do_not_matter(shop, tmp_path):
    file = write(shop.raw, tmp_path / "all.csv")
    code, output, answers = shop.score(file, "--chunk-size", "77")
    assert code == 0, output
    assert answers["row"].tolist() == [*range(900)]
    np.testing.assert_array_equal(answers["probability"], shop.expected)


def test_a_file_in_the_contracts_form_is_still_read_as_one(shop, tmp_path):
    records = shop.records.drop(columns="day").head(40)
    records.to_parquet(tmp_path / "records.parquet", index=False)
    code, output, answers = shop.score(tmp_path / "records.parquet")
    assert code == 0 and "in the form of contract.yaml" in output
    np.testing.assert_array_equal(answers["probability"], shop.expected[:40])


def test_a_misspelt_field_of_json_lines_is_said(shop, tmp_path):
    file = tmp_path / "new.jsonl"
    new = shop.raw.head(30).replace("-", None).rename(columns={"items": "item"})
    new.to_json(file, orient="records", lines=True)
    code, output, _ = shop.score(file, "--form", "raw")
    assert "has `items`, which the feature `items` needs" in output, output


def test_options_of_the_query_mean_nothing_for_records(shop, tmp_path):
    shop.records.drop(columns="day").head(9).to_parquet(tmp_path / "records.parquet", index=False)
    for form in ([], ["--form", "contract"]):
        code, output, answers = shop.score(tmp_path / "records.parquet", "--alone", *form)
        assert code == 1 and "--source and --alone speak of the query" in output
        assert answers is None


def test_rows_without_an_answer_are_named_with_their_reason(shop, tmp_path):
    new = shop.raw.head(50).copy()
    new.loc[[3, 20], "items"] = ["many", "3.5"]
    new.loc[7, "minutes"] = "soon"
    new.loc[11, "minutes"] = "-99"
    file = write(new, tmp_path / "new.csv")
    code, output, answers = shop.score(file)
    assert code == 1 and answers is None
    assert "items" in output and "'many'" in output and "row 3" in output
    code, output, answers = shop.score(file, "--rejects", str(tmp_path / "rejects.jsonl"))
    assert code == 3, output
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    reasons = {line["row"]: (line["column"], line["rule"]) for line in lines}
    assert {*reasons} == {3, 7, 11, 20}
    assert reasons[3] == ("items", "must be a whole number that its type holds")
    assert reasons[7][0] == "minutes"
    assert reasons[7][1].startswith("holds what the query cannot make `minutes` of; write it as in")
    assert answers["row"].tolist() == [row for row in range(50) if row not in reasons]
    kept = answers["row"].to_numpy()
    np.testing.assert_array_equal(answers["probability"], shop.expected[kept])


def test_check_says_what_is_wrong_with_raw_rows(shop, tmp_path):
    new = shop.raw.head(50).copy()
    new.loc[3, "items"] = "many"
    file = write(new, tmp_path / "new.csv")
    words = ["check", str(file), "--contract", str(shop.model / "contract.yaml")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "row 3: 'many'" in result.output
    file = write(shop.raw.head(50), tmp_path / "sound.csv")
    result = CliRunner().invoke(main, [words[0], str(file), *words[2:]])
    assert result.exit_code == 0 and "50 rows keep the contract" in result.output


def test_rows_that_the_querys_filters_leave_out_are_said(tmp_path):
    raw = raw_visits(300)
    folder = tmp_path / "shop"
    folder.mkdir()
    filtered = Shop(folder, f"{ROW_LOCAL} WHERE payment IS NOT NULL", raw)
    left_out = np.flatnonzero(raw["payment"].isna())
    assert 0 < len(left_out) < 300
    file = write(raw, tmp_path / "all.csv")
    code, output, answers = filtered.score(file, "--rejects", str(tmp_path / "rejects.jsonl"))
    assert code == 0, output
    assert f"{len(left_out):,} rows have no prediction: the query's filters" in output
    assert f"(rows {left_out[0]}, {left_out[1]}" in output
    assert answers["row"].tolist() == np.setdiff1d(np.arange(300), left_out).tolist()
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == left_out.tolist()


def test_a_column_that_is_not_there_is_named_with_its_feature_and_file(shop, tmp_path):
    file = write(shop.raw.drop(columns=["minutes"]), tmp_path / "less.csv")
    code, output, answers = shop.score(file, "--form", "raw")
    assert code == 1 and answers is None
    assert "less.csv lacks the column `minutes`, which the feature `minutes` needs" in output
    code, output, _ = shop.score(file)
    assert code == 1 and "less.csv cannot be read" in output and "it lacks `minutes`" in output


def test_another_delimiter_than_the_sources_is_named(shop, tmp_path):
    shop.raw.to_csv(tmp_path / "tabs.csv", sep="\t", index=False)
    code, output, answers = shop.score(tmp_path / "tabs.csv")
    assert code == 1 and answers is None
    assert "tabs.csv cannot be read" in output and r"stand between '\t', and those of" in output


def test_where_both_forms_fit_the_rows_decide_or_the_caller_has_to(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    raw = raw_visits(300)
    sql = ROW_LOCAL.replace(
        "CAST(REPLACE(minutes, ',', '.') AS DOUBLE)",
        "60 * CAST(REPLACE(CAST(minutes AS VARCHAR), ',', '.') AS DOUBLE)",
    )
    hours = Shop(folder, sql, raw)  # a source in hours, a contract in minutes
    new = raw.head(20).drop(columns=["back", "day"]).replace("-", None)
    new = new.assign(minutes="1", member="true")
    for name, words, form in [
        ("yes.csv", {"member": "ja"}, "visits"),
        ("true.csv", {"minutes": "1.5"}, None),
    ]:
        file = write(new.assign(**words), tmp_path / name, sep=";" if form else ",")
        code, output, _ = hours.score(file)
        if form:
            assert code == 0 and f"source `{form}`" in output, output
        else:
            assert "in the form of contract.yaml" in output or "--form" in output, output
    file = tmp_path / "both.parquet"
    new.to_parquet(file)
    typed = new.assign(minutes=1.0, member=True, items=pd.Series([3.0] * 20))
    typed.to_parquet(file)
    code, output, _ = hours.score(file)
    assert code == 1 and "--form raw or --form contract" in output, output
    assert hours.score(file, "--form", "contract")[0] == 0
    assert hours.score(file, "--form", "raw")[0] == 0


def test_other_sources_come_from_the_command_or_from_the_model(joined, tmp_path, monkeypatch):
    assert joined.record["row_local"] and joined.record["other_sources"] == ["doors"]
    file = write(joined.raw.head(60).drop(columns="back"), tmp_path / "new.csv")
    doors = tmp_path / "doors.csv"
    doors.write_text(DOORS)
    code, output, answers = joined.score(file, "--source", f"doors={doors}")
    assert code == 0, output
    np.testing.assert_array_equal(answers["probability"], joined.expected[:60])
    monkeypatch.chdir(tmp_path)  # outside any project, with what the model carries
    code, output, answers = joined.score(file)
    assert code == 0, output
    np.testing.assert_array_equal(answers["probability"], joined.expected[:60])
    code, output, _ = joined.score(file, "--source", "windows=w.csv")
    assert code == 1 and "reads no such source" in output and "doors" in output
    code, output, _ = joined.score(file, "--source", "doors")
    assert code == 1 and "expected NAME=FILE" in output


def chunks_of(shop: Shop, raw: pd.DataFrame, folder: Path, **given) -> list:
    folder.mkdir()
    file = write(raw, folder / "new.csv")
    files = open_raw_files([file], shop.record["sources"]["visits"], folder)
    inputs = RawInput(sources=shop.sources, **given)
    assert recognise_form(file, files, shop.record, shop.contract, inputs, folder) == "raw"
    return [*raw_chunks(files, shop.record, shop.contract, inputs, folder)]


def test_a_query_that_looks_at_other_rows_gets_the_known_ones(window, tmp_path):
    "The last rows, which are known already, are not counted twice; revised ones take their place."
    assert not window.record["row_local"]
    last = window.raw.tail(30)
    (chunk,) = chunks_of(window, last, tmp_path / "known")
    expected = window.records["items"].tail(30).tolist()
    assert chunk.rows.tolist() == [*range(30)]
    assert chunk.frame["items"].fillna(-1).tolist() == pd.Series(expected).fillna(-1).tolist()
    revised = last.assign(items="1")
    (chunk,) = chunks_of(window, revised, tmp_path / "revised")
    assert chunk.frame["items"].tolist()[3:] == [3.0] * 27
    (chunk,) = chunks_of(window, revised, tmp_path / "alone", alone=True)
    assert chunk.frame["items"].fillna(-1).tolist()[:4] == [-1.0, 1.0, 2.0, 3.0]


def test_rows_that_cannot_be_read_are_all_set_aside_up_to_a_bound(shop, monkeypatch):
    monkeypatch.setattr(raw_rows, "MAX_FAILURES", 1000)
    raw = pd.concat([shop.raw] * 3, ignore_index=True)
    runner = QueryRunner(shop.record, shop.contract)
    bad = np.arange(0, len(raw), 9)
    raw.loc[bad, "minutes"] = "soon"  # the query fails, not a type
    raw.loc[5, "items"] = "many"
    errors = []
    made = runner.table(pd_table(raw), 100, errors)
    assert {error.row for error in errors} == {*(100 + bad), 105}
    assert len(made) == len(raw) - len(bad) - 1
    raw["minutes"] = "soon"
    with pytest.raises(ProjectError, match="fails with 1,000 of .*minutes"):
        runner.table(pd_table(raw), 0, [])
    raw["items"] = "many"
    errors = []
    assert len(runner.table(pd_table(raw), 0, errors)) == 0 and len(errors) == len(raw)


def test_files_that_are_not_what_they_should_be(shop, tmp_path):
    empty = write(shop.raw.head(0), tmp_path / "empty.csv")
    assert "empty.csv has no rows" in shop.score(empty)[1]
    assert "does not exist" in shop.score(tmp_path / "none.csv")[1]
    for line, said in (("7", "Found: 1"), ("1;2;3;4;5;6;7;8;9", "Found: 9"), ('1;"x', "quote")):
        ragged = write(shop.raw.head(3), tmp_path / "ragged.csv")
        ragged.write_text(f"{ragged.read_text()}{line}\n")
        code, output, answers = shop.score(ragged, "--rejects", str(tmp_path / "rejects.jsonl"))
        assert code == 1 and answers is None
        assert "ragged.csv cannot be read as csv: Line: 5" in output and said in output, output
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"visit;day\n" * 5000)[:-30])
    assert "cut.csv.gz" in shop.score(cut)[1]
    mixed = write(shop.raw.head(3).assign(door="Süd"), tmp_path / "mixed.csv")
    mixed.write_bytes(mixed.read_bytes() + "4;ß\n".encode() + b"\xfc\n")
    code, output, answers = shop.score(mixed)
    assert code == 1 and answers is None, output
