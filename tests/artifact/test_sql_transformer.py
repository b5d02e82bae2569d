"""The columns of `sql/features.sql`: equal to DuckDB's answer to the same SELECT, and columnar."""

import math
import re

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mle_project.artifact.sql_transformer import sql_columns
from mle_project.core.arrays import feature_frame
from mle_project.core.contract import MAX_ABS, parse_contract
from mle_project.core.project import ProjectError
from mle_project.data.columnar_sql import record_table
from mle_project.modeling.columnar import rowwise_violations

CONTRACT = parse_contract(
    """
description: One parcel
task: regression
columns:
  weight: {type: number, role: feature, description: w, available: before_prediction,
    nullable: true}
  count: {type: integer, role: feature, description: c, available: before_prediction,
    nullable: true}
  "odd name": {type: number, role: feature, description: o, available: before_prediction,
    nullable: true}
  fragile: {type: boolean, role: feature, description: f, available: before_prediction,
    nullable: true}
  way: {type: string, role: feature, description: y, available: before_prediction, nullable: true}
  zone: {type: string, role: feature, description: z, available: before_prediction, nullable: true}
  cost: {type: number, role: target, description: t, available: after_prediction}
""",
    "parcels.yaml",
)
NUMBERS = [
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    1.0,
    3.0,
    7.0,
    1e-3,
    0.1,
    -17.25,
    1e6,
    1e30,
    16777216,
]
WORDS = ["air", "sea", "it's", "ü ☃", " air"]


def rows() -> pd.DataFrame:
    "Three hundred records with every kind of gap."
    rng = np.random.default_rng(3)
    n = 300
    frame = pd.DataFrame(
        {
            "weight": rng.choice(NUMBERS, n),
            "count": rng.integers(-5, 12, n).astype(float),
            "odd name": rng.normal(0, 40, n).round(2),
            "fragile": pd.array(rng.random(n) < 0.5, dtype="boolean"),
            "way": rng.choice(WORDS, n).astype(object),
            "zone": rng.choice(["a", "b"], n).astype(object),
        }
    )
    for name in frame:
        frame.loc[rng.random(n) < 0.15, name] = None
    return frame


FRAME = rows()
X = feature_frame(FRAME, CONTRACT)


def engine() -> duckdb.DuckDBPyConnection:
    "DuckDB with the table `record`."
    opened = duckdb.connect(config={"threads": 1})
    opened.execute("SET ieee_floating_point_ops = false")
    opened.execute(record_table(CONTRACT))
    parts = [f"NULLIF(\"{name}\", 'NaN'::DOUBLE)" for name in CONTRACT.numeric_features]
    parts += [f"NULLIF(\"{name}\", '')" for name in CONTRACT.categorical_features]
    parts = [part + "::BOOLEAN" if "fragile" in part else part for part in parts]
    opened.register("rows", X.astype({name: np.float64 for name in CONTRACT.numeric_features}))
    opened.execute(f"INSERT INTO record SELECT {', '.join(parts)} FROM rows")
    return opened


ENGINE = engine()


def answer(select: str) -> pd.Series:
    "DuckDB's answer as a model takes it: numbers of 32 bits, missing ones NaN or empty."
    found = ENGINE.execute(f"SELECT {select} FROM record").fetchall()
    values = [value for (value,) in found]
    if any(isinstance(value, str) for value in values):
        return pd.Series(["" if value is None else value for value in values], dtype=object)
    numbers = np.array([math.nan if value is None else float(value) for value in values])
    numbers[~(np.abs(numbers) <= MAX_ABS)] = math.nan
    return pd.Series(numbers.astype(np.float32))


# Each expression twice: as a person writes it, and for DuckDB, which raises where NULL is meant.
Pair = tuple[str, str]


def same(text: str) -> Pair:
    return text, text


def joined(*parts: "str | Pair") -> Pair:
    "Texts and pairs, one after the other."
    pairs = [same(part) if isinstance(part, str) else part for part in parts]
    return "".join(one for one, _ in pairs), "".join(other for _, other in pairs)


def no_nan(pair: Pair) -> Pair:
    "What gives NaN gives NULL, so that comparisons see it."
    return f"({pair[0]})", f"NULLIF(({pair[1]}), 'NaN'::DOUBLE)"


def tried(pair: Pair) -> Pair:
    return pair[0], f"NULLIF(TRY({pair[1]}), 'NaN'::DOUBLE)"


COLUMNS = st.sampled_from(["weight", "count", '"odd name"', "WEIGHT", "record.count"]).map(same)
LITERALS = st.sampled_from(["0", "1", "2.5", "0.1 + 0.2", "-3", "1e3"]).map(
    lambda text: same(f"CAST({text} AS DOUBLE)")
)
WORDS_SQL = st.sampled_from([*WORDS, "b", "nobody", ""]).map(
    lambda word: same("'" + word.replace("'", "''") + "'")
)


def arithmetic(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    "Numbers from numbers."
    two = st.tuples(inner, st.sampled_from("+-*/%"), inner)
    return st.one_of(
        two.map(lambda p: no_nan(joined(p[0], f" {p[1]} ", p[2]))),
        st.tuples(st.sampled_from(["ABS", "FLOOR", "CEIL", "SIGN", "ROUND"]), inner).map(
            lambda p: joined(p[0], "(", p[1], ")")
        ),
        st.tuples(inner, st.integers(-2, 3)).map(lambda p: joined("ROUND(", p[0], f", {p[1]})")),
        st.tuples(st.sampled_from(["LN", "SQRT", "EXP", "SIN", "COS"]), inner).map(
            lambda p: tried(joined(p[0], "(", p[1], ")"))
        ),
        st.tuples(inner, st.sampled_from(["2", "0.5", "-1", "0"])).map(
            lambda p: tried(joined("POWER(", p[0], f", {p[1]})"))
        ),
        st.tuples(st.sampled_from(["GREATEST", "LEAST", "COALESCE"]), inner, inner).map(
            lambda p: joined(p[0], "(", p[1], ", ", p[2], ")")
        ),
        st.tuples(inner, inner).map(lambda p: joined("NULLIF(", p[0], ", ", p[1], ")")),
        st.tuples(conditions(inner), inner, inner).map(
            lambda p: joined("CASE WHEN ", p[0], " THEN ", p[1], " ELSE ", p[2], " END")
        ),
        st.tuples(conditions(inner), inner).map(lambda p: joined("IF(", p[0], ", ", p[1], ", 0)")),
    )


def conditions(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    "Conditions on numbers and words."
    signs = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
    texts = st.sampled_from(["way", "zone"]).map(same)
    simple = st.one_of(
        st.just(same("fragile")),
        st.tuples(inner, signs, inner).map(lambda p: joined(p[0], f" {p[1]} ", p[2])),
        st.tuples(inner, inner, inner).map(
            lambda p: joined(p[0], " BETWEEN ", p[1], " AND ", p[2])
        ),
        st.tuples(inner, inner).map(lambda p: joined(p[0], " IN (", p[1], ", 3, 7)")),
        st.tuples(inner, st.sampled_from([" IS NULL", " IS NOT NULL"])).map(
            lambda p: joined(p[0], p[1])
        ),
        st.tuples(texts, st.sampled_from([" = ", " <> "]), WORDS_SQL).map(lambda p: joined(*p)),
        st.tuples(texts, WORDS_SQL).map(lambda p: joined(p[0], " NOT IN (", p[1], ", 'sea')")),
        st.just(same("fragile IS TRUE")),
        st.just(same("way IS NULL")),
    )
    wrapped = simple.map(lambda pair: joined("(", pair, ")"))
    return st.one_of(
        wrapped,
        wrapped.map(lambda pair: joined("(NOT ", pair, ")")),
        st.tuples(wrapped, st.sampled_from([" AND ", " OR "]), wrapped).map(
            lambda p: joined("(", *p, ")")
        ),
    )


NUMERIC = st.recursive(st.one_of(COLUMNS, LITERALS), arithmetic, max_leaves=6)
# As a value, the empty string is NULL here; DuckDB keeps the two apart.
VALUES_SQL = WORDS_SQL.filter(lambda pair: pair[0] != "''")
TEXTUAL = st.tuples(conditions(COLUMNS), VALUES_SQL, st.sampled_from(["way", "NULL", "zone"])).map(
    lambda p: joined("COALESCE(CASE WHEN ", p[0], " THEN ", p[1], f" ELSE {p[2]} END, zone)")
)
ANY = st.one_of(NUMERIC, conditions(NUMERIC), TEXTUAL)


@settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(
    ANY.filter(
        lambda pair: any(
            f in pair[0].lower() for f in ("weight", "count", "odd", "fr", "way", "zone")
        )
    )
)
def test_a_column_is_what_duckdb_says(pair: Pair) -> None:
    "The graph gives DuckDB's answer, to the last of 32 bits."
    try:
        added = sql_columns(CONTRACT, f"SELECT *, {pair[0]} AS added FROM record")
    except ProjectError as error:  # a part without columns, such as LN(-3)
        assert "always missing" in str(error) or "Error" in str(error), error
        return
    ours = added.transform(X)["added"].reset_index(drop=True)
    expected = answer(pair[1])
    if ours.dtype == object:
        assert ours.tolist() == expected.tolist(), pair
        return
    got = ours.to_numpy()
    want = expected.to_numpy(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(want)), pair
    apart = np.abs(got - want) > np.spacing(np.abs(want))
    assert not apart.any(), (pair, got[apart][:3], want[apart][:3])


PLAIN_COLUMNS = st.sampled_from(["weight", "count", '"odd name"', "fragile", "2", "-count"])
OPERATORS = st.sampled_from(["+", "-", "*", "/", "%", "^", "<", ">=", "=", "AND", "OR"])
ENDS = st.sampled_from(["", " IS TRUE", " IS NULL", " IN (1, 2)", " BETWEEN 0 AND 3"])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(PLAIN_COLUMNS, st.lists(st.tuples(OPERATORS, PLAIN_COLUMNS), min_size=1, max_size=3), ENDS)
def test_without_brackets_a_column_is_refused_or_what_duckdb_says(
    first: str, more: list[tuple[str, str]], end: str
) -> None:
    "Operators bind as they do in DuckDB, or a person has to put brackets."
    text = first + "".join(f" {operator} {column}" for operator, column in more) + end
    try:
        added = sql_columns(CONTRACT, f"SELECT *, {text} AS added FROM record")
    except ProjectError:
        return
    ours = added.transform(X)["added"].to_numpy()
    if "^" in text:  # no finite value: NULL here, and an error or NaN in DuckDB
        return
    want = answer(text).to_numpy(np.float32)
    assert np.array_equal(ours, want, equal_nan=True), text


THREE = """SELECT *,
  weight / NULLIF(count, 0) AS each_weighs,
  LN(1 + ABS("odd name")) AS log_odd,
  CASE WHEN way = 'air' AND fragile THEN 'careful' ELSE zone END AS handling
FROM record"""


def test_it_keeps_the_law_of_columnar_operations() -> None:
    "A row alone gives what it gives in a batch, to the last bit."
    assert rowwise_violations(sql_columns(CONTRACT, THREE).transform, X, alone=50) == []


@pytest.mark.parametrize(
    ("select", "line", "said"),
    [
        ("SELECT *,\n  AVG(weight) AS a FROM record", 2, "looks at other rows"),
        ("SELECT *,\n  weight - LAG(weight) OVER () AS a FROM record", 2, "looks at other rows"),
        ("SELECT *,\n  (SELECT 1) + weight AS a FROM record", 2, "subquery"),
        ("SELECT * FROM record\nWHERE weight > 1", 2, "WHERE drops rows"),
        ("SELECT *\nFROM record JOIN depots USING (zone)", 2, "JOIN looks at other rows"),
        ("SELECT * FROM record\nLIMIT 5", 2, "LIMIT drops rows"),
        ("SELECT * FROM parcels", 1, "FROM record"),
        ("SELECT weight + 1 AS a FROM record", 1, "begin with SELECT *"),
        ("SELECT * EXCLUDE (weight) FROM record", 1, "role: ignored"),
        ("SELECT *,\n  cost / weight AS a FROM record", 2, "its role is target"),
        ("SELECT *,\n  wieght + 1 AS a FROM record", 2, "wieght"),
        ("SELECT *,\n  weight + 1 AS count FROM record", 2, "Choose another"),
        ("SELECT *,\n  weight + 1 FROM record", 2, "has no name"),
        ("SELECT *,\n  UPPER(way) AS a FROM record", 2, "cannot be compiled"),
        ("SELECT *,\n  way = zone AS a FROM record", 2, "a word in quotes"),
        ("SELECT *,\n  ROUND(weight, count) AS a FROM record", 2, "round"),
        ("SELECT *,\n  CASE WHEN fragile THEN 1 ELSE way END AS a FROM record", 2, "Cannot mix"),
        ("SELECT *,\n  2 * 3 AS a FROM record", 2, "the same in every row"),
        ("SELECT *,\n  ROUND(weight, NULL) AS a FROM record", 2, "decimals"),
        ("SELECT *,\n  weight % count * 2 AS a FROM record", 2, "Put brackets"),
        ("SELECT *,\n  weight > count IS TRUE AS a FROM record -- c", 2, "Put brackets"),
    ],
)
def test_what_is_not_columnar_is_refused_with_its_line(select: str, line: int, said: str) -> None:
    with pytest.raises(ProjectError, match=f"sql/features.sql:{line}: .*{re.escape(said)}"):
        sql_columns(CONTRACT, select)


def test_a_column_may_use_those_before_it() -> None:
    select = "SELECT *, weight + 1 AS one, one * 2 AS two, two > 4 AS three FROM record"
    added = sql_columns(CONTRACT, select).transform(X)
    twice = ((X["weight"].astype(float) + 1) * 2).where(X["weight"] < 1e30)  # 2e30 is too large
    assert np.array_equal(added["two"], twice.astype(np.float32), equal_nan=True)
    known = added["two"].notna()
    assert ((added["two"] > 4).astype(float)[known] == added["three"][known]).all()
