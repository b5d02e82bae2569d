"""What real tables have and textbooks do not: each value is what an expert would read there."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from test_adopt import ANSWER, SIGNAL, N, adopt_files, base, by_row, chance, has_note, role
from test_adopt import write_table as write

from mle_project.adopt.plan import apply, describe, plan
from mle_project.cli.main import main
from mle_project.core.project import ProjectError


def kind(proposal, name: str) -> str:
    return next(d.kind for d in proposal.decisions if d.name == name)


def write_lines(project, rows: list[dict], name: str = "shop.jsonl") -> str:
    path = project.parent / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def records(**columns) -> list[dict]:
    return base(**columns).to_dict("records")


def days(form: str) -> list[str]:
    return [day.strftime(form) for day in pd.date_range("2023-01-05", periods=N)]


def test_text_in_json_is_judged_by_all_values(project):
    codes = np.resize(["12-05-31", "20-10-15", "45-02-03"], N)
    guid = np.resize(["AAAABBBB-1234-1234-1234-1234567890AB"], N)
    rows = records(paid=days("%m-%d-%Y"), part=codes, guid=guid)
    proposal, frame = adopt_files(project, [write_lines(project, rows)], target="answer")
    assert [str(day.date()) for day in by_row(frame, "paid")[:2]] == ["2023-01-05", "2023-01-06"]
    assert by_row(frame, "part")[:3] == ["12-05-31", "20-10-15", "45-02-03"]
    assert set(frame["guid"]) == {"AAAABBBB-1234-1234-1234-1234567890AB"}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("first", [10**17, 1234567890123456000])
def test_identifiers_of_many_digits_stay_different(project, form, first):
    numbers = [first + i % 60 for i in range(N)]
    frame = base(author_id=pd.array(numbers, dtype="Int64"))
    frame.loc[::7, "author_id"] = None
    path = project.parent / f"shop.{form}"
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path, index=False)
    proposal, made = adopt_files(project, [str(path)], target="answer")
    assert kind(proposal, "author_id") == "string" and made["author_id"].nunique() == 60
    assert str(first + 1) in set(made["author_id"])


def test_numbers_of_twenty_digits_in_json_stay_different(project):
    rows = records(code=[10**22 + i % 60 for i in range(N)])
    _, frame = adopt_files(project, [write_lines(project, rows)], target="answer")
    assert frame["code"].nunique() == 60 and str(10**22 + 1) in set(frame["code"])


def test_decimals_that_no_engine_reads_are_named(project):
    amounts = pa.array([1] * N).cast(pa.decimal256(50, 10))
    table = pa.table({"signal": SIGNAL, "amount": amounts, "answer": ANSWER})
    pq.write_table(table, project.parent / "shop.parquet")
    with pytest.raises(
        ProjectError, match=r"shop.parquet: column `amount` is decimal256\(50, 10\)"
    ):
        plan([str(project.parent / "shop.parquet")], target="answer")


def test_decimals_and_unsigned_integers_that_fit_are_numbers(project):
    table = pa.table(
        {
            "price": pa.array([i / 4 for i in range(N)]).cast(pa.decimal128(12, 2)),
            "count": pa.array(range(N), pa.uint64()),
            "whole": pa.array([i % 9 for i in range(N)], pa.int32()).cast(pa.decimal128(10, 0)),
            "answer": ANSWER,
        }
    )
    pq.write_table(table, project.parent / "shop.parquet")
    proposal, frame = adopt_files(
        project, [str(project.parent / "shop.parquet")], target="answer", choices={"key": ["count"]}
    )
    assert [kind(proposal, name) for name in ("price", "count", "whole")] == [
        "number",
        "integer",
        "integer",
    ]
    assert by_row(frame, "price", "count")[:3] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize("column", ["answer", "machine"])
def test_nan_is_missing_in_target_and_group(project, column):
    values = {"answer": (ANSWER == "yes").astype(float), "machine": np.arange(N) % 50.0}
    values[column][::10] = np.nan
    table = pa.table({"row": range(N), "signal": SIGNAL, **values})
    pq.write_table(table, project.parent / "shop.parquet")
    group = "machine" if column == "machine" else None
    proposal, frame = adopt_files(
        project, [str(project.parent / "shop.parquet")], target="answer", group=group
    )
    missing = 0 if column == "machine" else N // 10  # rows without a group are left out
    assert proposal.rows == N - N // 10 and frame[column].isna().sum() == missing
    assert "nan" not in set(frame[column].astype(str)) - {"nan"} or column == "answer"
    assert not (frame["machine"].astype(str) == "nan").any()


def test_versions_are_text_and_weekdays_of_old_years_are_weekdays(project):
    old = [f"{1450 + i % 140}-{i % 12 + 1:02}-{i % 28 + 1:02}" for i in range(N)]
    version = np.resize(["1.2.3", "1.10.2", "2.1.7"], N)
    proposal, frame = adopt_files(
        project, [write(project, base(version=version, baptised=old))], target="answer"
    )
    assert kind(proposal, "version") == "string" and "1.10.2" in set(frame["version"])
    # 1490-01-01 in the calendar that goes back before it was made is a Wednesday
    first = frame[frame["baptised"] == pd.Timestamp("1490-05-13")]
    assert frame["baptised_weekday"].between(1, 7).all()
    assert (frame["baptised_weekday"] == frame["baptised"].dt.dayofweek + 1).all(), first


def test_an_index_that_pandas_wrote_is_no_feature(project):
    frame = base().drop(columns="row id")
    odd = frame[frame.index % 3 > 0]
    odd.to_parquet(project.parent / "shop.parquet")
    proposal, _ = adopt_files(project, [str(project.parent / "shop.parquet")], target="answer")
    assert role(proposal, "index_level_0") == "id"
    twice = pd.concat([odd, odd.assign(signal=odd["signal"] + 1)])
    twice.to_parquet(project.parent / "again.parquet")
    proposal = plan([str(project.parent / "again.parquet")], target="answer")
    assert role(proposal, "index_level_0") == "ignored"


def test_nearly_unique_identifiers_and_codes(project):
    order = [100_000 + i - (i % 200 == 1) for i in range(N)]
    table = base(order_no=order, zip_code=70_000 + np.arange(N) % 80, store=np.arange(N) % 6)
    proposal, _ = adopt_files(project, [write(project, table)], target="answer")
    assert role(proposal, "order_no") == "ignored"
    assert kind(proposal, "zip_code") == kind(proposal, "store") == "string"
    assert role(proposal, "zip_code") == role(proposal, "store") == "feature"


def test_months_and_quarters_are_moments(project):
    months = pd.date_range("1990-01-01", periods=N, freq="MS")
    quarters = [f"{day.year}Q{day.quarter}" for day in months]
    swapped = [f"Q{day.quarter} {day.year}" for day in months]
    table = base(
        a=months.strftime("%b-%Y"),
        b=months.strftime("%Y %b"),
        c=months.strftime("%Y-%m"),
        d=quarters,
        e=swapped,
    )
    _, frame = adopt_files(project, [write(project, table)], target="answer")
    for name in "abc":
        assert by_row(frame, name) == months.tolist()
    starts = [day.replace(month=3 * day.quarter - 2) for day in months]
    assert by_row(frame, "d") == by_row(frame, "e") == starts


def test_whole_numbers_that_are_moments(project):
    moments = pd.date_range("2021-03-04", periods=N, freq="D")
    seconds = moments.astype("datetime64[s]").astype("int64")
    table = base(
        booked=moments.strftime("%Y%m%d").astype(int),
        created_at=seconds,
        update_time=seconds * 1000,
        amount=seconds,
    )
    proposal, frame = adopt_files(project, [write(project, table)], target="answer")
    for name in ("booked", "created_at", "update_time"):
        assert by_row(frame, name) == moments.tolist()
    assert kind(proposal, "amount") == "integer"


def test_the_day_that_means_never_is_a_gap(project):
    until = ["31.12.9999" if i % 3 else f"{i % 28 + 1:02}.05.2024" for i in range(N)]
    proposal, frame = adopt_files(project, [write(project, base(until=until))], target="answer")
    assert frame["until"].isna().sum() == N - N // 3
    assert any("9999-12-31" in d.reason for d in proposal.decisions)


def test_minutes_in_utc(project):
    moments = [f"2024-01-{i % 28 + 1:02}T{i % 24:02}:00Z" for i in range(N)]
    _, frame = adopt_files(project, [write(project, base(seen=moments))], target="answer")
    assert by_row(frame, "seen")[1] == pd.Timestamp("2024-01-02 01:00")


def test_negative_numbers_and_multiples_as_people_write_them(project):
    table = base(
        books=[f"({i}.50)" if i % 2 else f"{i}.25" for i in range(N)],
        after=[f"{i}.50-" if i % 2 else f"{i}.25" for i in range(N)],
        typed=[f"\u2212{i}.5" if i % 2 else f"{i}.25" for i in range(N)],
        real=[f"R$ {i},50" for i in range(N)],
        large=["2.5M" if i % 2 else "300K" for i in range(N)],
        flat=np.resize(["12B", "7B", "3K"], N),
    )
    proposal, frame = adopt_files(project, [write(project, table)], target="answer")
    for name in ("books", "after", "typed"):
        assert by_row(frame, name)[2:4] == [2.25, -3.5]
    assert by_row(frame, "real")[7] == 7.5
    assert by_row(frame, "large")[:2] == [300_000.0, 2_500_000.0]
    assert kind(proposal, "flat") == "string"


def test_lists_in_a_cell_become_columns(project):
    lists = np.resize(
        ["Comedy, Crime", "Drama", "Crime, Drama, War", None, "War", "Comedy, War", "Crime"], N
    )
    _, frame = adopt_files(project, [write(project, base(genres=lists))], target="answer")
    assert [None if pd.isna(n) else n for n in by_row(frame, "genres_count")[:4]] == [2, 1, 3, None]
    assert by_row(frame, "genres_crime")[:3] == [True, False, True]
    assert by_row(frame, "genres_war")[:3] == [False, False, True]


def test_words_with_an_order_are_ordered_categories(project):
    years = np.resize(["10+ years", "< 1 year", "1 year", "2 years", None], N)
    sizes = np.resize(["B2", "A9", "C1"], N)
    table = base(tenure=years, risk=np.resize(["low", "High", "medium"], N), size=sizes)
    path = write(project, table)
    proposal, frame = adopt_files(
        project, [path], target="answer", choices={"ordered": ["size=C1, A9,B2"]}
    )
    columns = proposal.contract.columns
    assert columns["tenure"].categories == ("< 1 year", "1 year", "2 years", "10+ years")
    assert columns["risk"].categories == ("low", "medium", "High")
    assert columns["size"].categories == ("C1", "A9", "B2")
    assert all(columns[name].ordered for name in ("tenure", "risk", "size"))
    assert by_row(frame, "risk")[:3] == ["low", "High", "medium"]
    marks = np.resize([">=5", "<5", "none"], N)
    path = write(project, base(**{"a=b": marks}))
    stated = {"ordered": ["a=b=none,<5,>=5"]}
    again = plan([path], target="answer", choices=stated, fresh=True).contract.columns["a_b"]
    assert again.categories == ("none", "<5", ">=5")
    path = write(project, table)
    with pytest.raises(ProjectError, match="says nothing of C1"):
        plan([path], target="answer", choices={"ordered": ["size=A9,B2"]})
    with pytest.raises(ProjectError, match="named by --ignore too|named by --ordered too"):
        plan([path], target="answer", choices={"ordered": ["risk"], "ignore": ["risk"]})


def test_parts_of_a_date_that_are_there_are_not_made_again(project):
    dates = pd.date_range("2020-01-01", periods=N)
    table = base(date=dates, year=dates.year, wday=dates.strftime("%a"))
    proposal = plan([write(project, table)], target="answer")
    names = [d.name for d in proposal.decisions]
    assert "date_month" in names and not {"date_year", "date_weekday"} & {*names}


def test_other_names_of_the_group_are_no_features(project):
    place = np.arange(N) % 40
    table = base(country=[f"Land {i}" for i in place], iso=[f"L{i}" for i in place], no=100 + place)
    proposal = plan([write(project, table)], target="answer", group="country")
    assert role(proposal, "iso") == role(proposal, "no") == "ignored"


def test_scores_named_like_people_are_no_people(project):
    table = base(legal_gender=np.round(chance.normal(5, 2, N), 2), sex=np.resize(["f", "m"], N))
    proposal = plan([write(project, table)], target="answer")
    assert {d.name for d in proposal.decisions if d.protected} == {"sex"}


def test_spellings_of_one_class_are_one_class(project):
    words = np.where(ANSWER == "yes", "bad", np.resize(["Good", "good", "Good", "GOOD "], N))
    proposal, frame = adopt_files(
        project, [write(project, base().assign(answer=words))], target="answer"
    )
    assert sorted(proposal.contract.labels) == ["Good", "bad"]
    assert has_note(proposal, "were put together", "`good` as `Good`")
    accents = np.where(ANSWER == "yes", "nein", np.resize(["caf\u00e9", "cafe\u0301"], N))
    proposal = plan([write(project, base().assign(answer=accents))], target="answer")
    assert len(proposal.contract.labels) == 2


def test_few_whole_values_are_classes(project):
    grades = np.resize(["1.0", "2.0", "3.0"], N)
    proposal = plan([write(project, base(grade=grades))], target="grade")
    assert proposal.contract.task == "multiclass" and len(proposal.contract.labels) == 3


RARE = np.where(np.arange(N) < 6, "odd", np.resize(["a", "b", "c"], N))


def test_a_rare_class_can_be_dropped(project):
    path = write(project, base(grade=RARE))
    with pytest.raises(ProjectError, match="`odd` has 6 rows; .*--rare drop.*--rare merge"):
        plan([path], target="grade")
    proposal, frame = adopt_files(project, [path], target="grade", rare="drop")
    assert proposal.contract.labels == ["a", "b", "c"] and frame["grade"].isna().sum() == 6
    assert has_note(proposal, "rare classes of `grade` were dropped: `odd`")


def test_rare_classes_can_be_merged(project):
    classes = np.where(np.arange(N) < 12, np.resize(["odd", "even"], N), RARE)
    proposal, frame = adopt_files(
        project, [write(project, base(grade=classes))], target="grade", rare="merge"
    )
    assert proposal.contract.labels == ["a", "b", "c", "other"]
    assert (frame["grade"] == "other").sum() == 12


def test_what_a_person_says_of_a_column_holds(project):
    table = base(amount=SIGNAL * 2 + 1, ward=np.arange(N) % 90, code=np.arange(N), mood=SIGNAL + 1)
    proposal, _ = adopt_files(
        project,
        [write(project, table)],
        target="answer",
        choices={
            "ignore": ["amount"],
            "known-after": ["mood"],
            "category": ["ward"],
            "key": ["code"],
        },
    )
    late = {d.name for d in proposal.decisions if d.available == "after_prediction"}
    assert role(proposal, "amount") == role(proposal, "mood") == "ignored"
    assert late == {"mood", "answer"} and role(proposal, "code") == "id"
    assert (kind(proposal, "ward"), role(proposal, "ward")) == ("string", "feature")
    with pytest.raises(ProjectError, match="--ignore 'answer': .* by --target too"):
        plan([write(project, table)], target="answer", choices={"ignore": ["answer"]})
    with pytest.raises(ProjectError, match="--key 'cod': there is no such column. Did you mean"):
        plan([write(project, table)], target="answer", choices={"key": ["cod"]})


def test_names_that_sound_late_are_pointed_at(project):
    table = base(paid_total=np.round(chance.normal(0, 1, N), 3))
    proposal = plan([write(project, table)], target="answer")
    assert role(proposal, "paid_total") == "feature"
    assert has_note(proposal, "`paid_total` sounds", "--known-after paid_total")


def test_copied_rows_are_a_warning_and_no_wider_limit(project):
    table = pd.DataFrame({"a": SIGNAL, "b": chance.normal(0, 1, N), "answer": ANSWER})
    copied = pd.concat([table, table], ignore_index=True)
    path = write(project, copied)
    proposal = plan([path], target="answer")
    assert "far more than chance makes" in proposal.notes[0]
    apply(proposal)
    assert "max_duplicate_share: 0.01" in (project / "params.yaml").read_text()


def test_equal_rows_with_other_targets_are_no_copies(project):
    "A place is looked at again and again, and its facts are always the same."
    place = np.arange(N) % 60
    table = pd.DataFrame({"place": [f"p{i}" for i in place], "size": place * 7, "answer": ANSWER})
    proposal = plan([write(project, table)], target="answer")
    assert not has_note(proposal, "far more than chance")
    assert "max_duplicate_share: 1.0" in proposal.new_contents["params.yaml"]


def test_two_columns_that_give_the_target_are_named(project):
    good = chance.integers(1, 90, N)
    bad = chance.integers(1, 90, N)
    share = np.round(100 * good / (good + bad), 0)
    table = pd.DataFrame({"year": np.arange(N) % 30, "good": good, "bad": bad, "share": share})
    proposal = plan([write(project, table)], target="share")
    assert has_note(proposal, "`good / bad` reaches R2", "--known-after")


def test_mixed_line_ends_are_read(project):
    lines = [
        "signal,note,answer",
        *(f"{s},n{i % 9},{a}" for i, (s, a) in enumerate(zip(SIGNAL, ANSWER, strict=True))),
    ]
    text = "".join(line + ("\r\n" if i % 2 else "\n") for i, line in enumerate(lines))
    (project.parent / "shop.csv").write_text(text, newline="")
    _, frame = adopt_files(project, [str(project.parent / "shop.csv")], target="answer")
    assert len(frame) == N and set(frame["note"]) == {f"n{i}" for i in range(9)}


@pytest.mark.parametrize("name", ["shop.jsonl", "shop.json"])
def test_an_array_of_json_is_a_table(project, name):
    path = project.parent / name
    path.write_text(json.dumps(records(word=["a\u2028b"] * N), indent=1))
    _, frame = adopt_files(project, [str(path)], target="answer")
    assert len(frame) == N and set(frame["word"]) == {"a\u2028b"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"y": 1}\n{"y":\n', "line 3 is not valid JSON"),
        ('{\n "y": 1\n}\n', "line 2 is not valid JSON"),
        ("[1, 2]\n[3]\n", "not valid JSON .*one array of objects"),
        ('[{"y": 1}, {"y": 2}', "not valid JSON .*one array of objects"),
    ],
)
def test_json_that_is_none_is_named(project, content, message):
    (project.parent / "shop.json").write_text(content)
    with pytest.raises(ProjectError, match=f"^shop.json: .*{message}") as rejection:
        plan([str(project.parent / "shop.json")], target="y")
    assert "Error" not in str(rejection.value) and str(project.parent) not in str(rejection.value)


REFUSED = {
    "a return in a cell": (b"a,b,y\n1,x\ry,0\n", r"line 2 has a carriage return inside a cell"),
    "a footer": (b"a,b,y\n" + b"1,2,3\n" * 50 + b"Source: me\n", r"line 52 has 1 cells .*totals"),
    "a title": (
        b"Sales 2024,,\n,,\na,b,y\n" + b"1,2,3\n" * 50,
        r"line 3 holds the names .* 2 lines stand before it",
    ),
    "a cell of 3 MB": (
        b"a,b,y\n" + b"1,2,3\n" * 50 + b"x" * 3_000_000 + b",2,3\n",
        "line 52 is longer than 2 MB. .*Parquet",
    ),
    "few rows": (b"a,b,y\n" + b"1,2,3\n" * 9, "9 rows have a value; at least 30 are needed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_named_with_line_and_remedy(project, case):
    content, message = REFUSED[case]
    (project.parent / "shop.csv").write_bytes(content)
    with pytest.raises(ProjectError, match=message) as rejection:
        plan([str(project.parent / "shop.csv")], target="y")
    assert str(rejection.value).startswith(("shop.csv: ", "--target y: "))
    assert "/tmp" not in str(rejection.value) and "strict_mode" not in str(rejection.value)


def test_a_wide_table_fits_a_screen(project):
    wide = pd.DataFrame(
        chance.normal(0, 1, (N, 300)).round(3), columns=[f"c{i}" for i in range(300)]
    )
    proposal = plan([write(project, wide.assign(answer=ANSWER))], target="answer")
    assert len(describe(proposal).splitlines()) < 60 and "300 feature" in describe(proposal)
    assert len(describe(proposal, show_all=True).splitlines()) > 300


def test_a_second_adoption_keeps_what_a_person_changed(project):
    path = write(project, base(size=np.arange(N) % 7, door=np.resize(["n", "s"], N)))
    apply(plan([path], target="answer"))
    contract = project / "contract.yaml"
    text = contract.read_text()
    said = "`size` of shop.csv."
    assert text.count(said) == 1
    contract.write_text(text.replace(said, "The size of the shop."))
    query = project / "sql" / "shop.sql"
    query.write_text(query.read_text().replace('  "size",', '  2 * "size" AS "size",'))
    grown = base(size=np.arange(N) % 9, door=np.resize(["n", "s", "w"], N))
    proposal, frame = adopt_files(project, [write(project, grown)], force=True, target="answer")
    assert has_note(proposal, "kept as edited since the last adoption: `size`", "--fresh")
    columns = proposal.contract.columns
    assert columns["size"].description == "The size of the shop."
    assert frame["size"].max() == 16 and list(columns["door"].categories) == ["n", "s", "w"]
    proposal = plan([path], target="answer", fresh=True)
    assert proposal.contract.columns["size"].description == "`size` of shop.csv."
    proposal = plan([path], target="answer", choices={"ignore": ["size"]})
    assert role(proposal, "size") == "ignored" == proposal.contract.columns["size"].role


def test_a_second_adoption_may_name_a_group_or_a_time(project):
    table = base(shop=np.arange(N) % 40, sold=pd.date_range("2024-01-01", periods=N))
    path = write(project, table)
    apply(plan([path], target="answer"))
    for options in ({"group": "shop"}, {"time": "sold"}, {}):
        proposal, frame = adopt_files(project, [path], force=True, target="answer", **options)
        assert not has_note(proposal, "kept as edited") and len(frame) == N
        assert proposal.split["kind"] == next(iter(options), "random")


def test_columns_of_the_model_stay_with_their_table(project):
    path = write(project, base(size=np.arange(N) % 7))
    features = project / "sql" / "features.sql"
    features.write_text("SELECT *, earlier + 1 AS later FROM record")
    apply(plan([path], target="answer"), force=True)
    assert features.read_text().endswith("SELECT *\nFROM record\n")  # another table's are gone
    own = "SELECT *, size / 2 AS half FROM record"
    features.write_text(own)
    apply(plan([path], target="answer"), force=True)
    assert features.read_text() == own
    with pytest.raises(ProjectError, match="sql/features.sql:1: .*its role is ignored"):
        plan([path], target="answer", choices={"ignore": ["size"]})


def test_a_query_that_was_rewritten_is_not_replaced(project):
    path = write(project, base())
    apply(plan([path], target="answer"))
    query = project / "sql" / "shop.sql"
    query.write_text(query.read_text() + "WHERE signal > 0\n")
    with pytest.raises(ProjectError, match="sql/shop.sql was changed beyond its lines of columns"):
        plan([path], target="answer")
    assert plan([path], target="answer", fresh=True).rows == N


def test_the_command_draws_every_column(project):
    table = base(paid_total=np.round(chance.normal(0, 1, N), 3), door=np.resize(["n", "s"], N))
    words = ["adopt", write(project, table), "--target", "answer", "--ignore", "door"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0 and "reports/adopt.html" in result.output
    page = (project / "reports" / "adopt.html").read_text()
    names = re.findall("<h3>(.*?)</h3>", page)
    assert sorted(names) == ["answer", "door", "paid_total", "row_id", "signal"]
    assert names[:2] == ["answer", "paid_total"]  # the doubtful ones first
    assert "mle adopt ... --known-after paid_total" in page and "as --ignore says" in page
