"""Lineage against the engine: what the SQL says depends on a column, and what changes with it."""

import duckdb
import pytest
from projects import CONTRACT, QUERY, ROOT, example_only

from mle_project.core.project import ProjectError
from mle_project.data.lineage import (
    column_lineage,
    driving_source,
    required_columns,
    row_local_fault,
    target_only_columns,
    thread_row_number,
)

COLUMNS = {
    "orders": ["id", "price", "customer", "day", "back", 'odd "name"; --'],
    "customers": ["number", "town", "since"],
}
# Of each: whether a row may be alone, and whether row numbers can be led through.
ALONE = (True, True)
NUMBERED = (False, True)
NEITHER = (False, False)
QUERIES = {
    "SELECT * FROM orders": ALONE,
    "SELECT o.*, c.town FROM orders AS o LEFT JOIN customers AS c ON c.number = o.customer": ALONE,
    "SELECT id, price * 2 AS twice, twice + 1 AS more FROM orders WHERE day > 2": ALONE,
    "SELECT * EXCLUDE (price) REPLACE (day + 1 AS day) FROM orders": ALONE,
    'SELECT id, "odd ""name""; --" || \'x\' AS "odd ""name""; --" FROM orders': ALONE,
    "SELECT id, town FROM orders JOIN (SELECT number AS customer, town FROM customers) "
    "USING (customer)": ALONE,
    "WITH a(x, y) AS (SELECT id, price FROM orders), b AS (SELECT *, x + y AS z FROM a) "
    "SELECT z, x FROM b ORDER BY z": ALONE,
    "WITH orders AS (SELECT *, price > 3 AS dear FROM orders) SELECT id, dear FROM orders": ALONE,
    "SELECT id, SUM(price) OVER w AS so_far FROM orders "
    "WINDOW w AS (PARTITION BY customer ORDER BY day, id)": NUMBERED,
    "SELECT id, LAG(back) OVER (ORDER BY day, id) AS before FROM orders": NUMBERED,
    "SELECT customer, SUM(price) AS spent, COUNT(*) AS n FROM orders GROUP BY customer": NEITHER,
    "SELECT customer, MAX(price) AS most FROM orders GROUP BY 1 HAVING COUNT(*) > 1": NEITHER,
    "SELECT DISTINCT customer, back FROM orders": NEITHER,
    "SELECT id FROM orders ORDER BY price, id LIMIT 3": NUMBERED,
    "SELECT id FROM orders "
    "QUALIFY row_number() OVER (PARTITION BY customer ORDER BY day, id) = 1": NUMBERED,
    "SELECT id, (SELECT MAX(price) FROM orders) AS highest FROM orders": NUMBERED,
    "SELECT id, (SELECT MIN(since) FROM customers c WHERE c.number = o.customer) AS first "
    "FROM orders AS o": ALONE,
    "SELECT id FROM orders AS o WHERE EXISTS (SELECT 1 FROM customers c "
    "WHERE c.number = o.customer AND c.town = 'Ulm')": ALONE,
    "SELECT id FROM orders WHERE customer IN (SELECT number FROM customers WHERE since > 1)": ALONE,
    "SELECT o.id, p.price AS other FROM orders o LEFT JOIN orders p ON p.id = o.id - 1": NUMBERED,
    "SELECT o.id, n FROM orders o LEFT JOIN "
    "(SELECT number, COUNT(*) AS n FROM customers GROUP BY number) c "
    "ON c.number = o.customer": ALONE,
    "SELECT c.number, COUNT(o.id) AS n FROM customers c LEFT JOIN orders o "
    "ON o.customer = c.number GROUP BY c.number": NEITHER,
    "SELECT id, day FROM orders WHERE day < 3 UNION ALL SELECT id, price FROM orders": ALONE,
    "SELECT id FROM orders UNION SELECT customer FROM orders": NEITHER,
    "SELECT o.id, x.most FROM orders o, LATERAL "
    "(SELECT MAX(since) AS most FROM customers c WHERE c.number = o.customer) x": ALONE,
    "SELECT id, CASE WHEN back THEN price ELSE day END AS mixed FROM orders": ALONE,
    "FROM orders SELECT id, price": ALONE,
    "SELECT COLUMNS('id|price') FROM orders": (True, False),
    "SELECT o.id, c.town FROM customers c RIGHT JOIN orders o ON c.number = o.customer": ALONE,
    "SELECT id, random() < 2 AS always FROM orders": NUMBERED,
}


@pytest.fixture
def engine():
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE orders (id INT, price INT, customer INT, day INT, back BOOLEAN, "
            '"odd ""name""; --" VARCHAR)'
        )
        connection.execute(
            "INSERT INTO orders SELECT i, i * 7 % 5, i % 3, i * 3 % 4, i % 2 = 0, 'w' || i % 4 "
            "FROM range(1, 13) AS t(i)"
        )
        connection.execute("CREATE TABLE customers (number INT, town VARCHAR, since INT)")
        connection.execute(
            "INSERT INTO customers VALUES (0, 'Ulm', 3), (1, 'Bonn', 1), (1, 'x', 2)"
        )
        yield connection


def rows(engine, sql, names):
    "The different rows of some columns."
    listed = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    return set(engine.execute(f"SELECT {listed} FROM ({sql})").fetchall())


CHANGES = ("NULL", "(ROW_NUMBER() OVER (ORDER BY 1 - {x}) * 3 + 1)", "MAX({x}) OVER ()")


@pytest.mark.parametrize("sql", QUERIES, ids=range(len(QUERIES)))
def test_only_what_depends_on_a_column_changes_with_it(engine, sql):
    "Each raw column is changed in three ways; columns of the result that it does not feed stay."
    lineage = column_lineage(sql, COLUMNS)
    outputs = [name for name, *_ in engine.execute(f"DESCRIBE {sql}").fetchall()]
    if not lineage.unknown:
        assert list(lineage.values) == outputs
    for table, columns in COLUMNS.items():
        for column in columns:
            free = [name for name in outputs if (table, column) not in lineage.of(name)]
            if not free:
                continue
            before = rows(engine, sql, free)
            quoted = '"' + column.replace('"', '""') + '"'
            kind = dict(
                engine.execute(f"SELECT name, type FROM pragma_table_info('{table}')").fetchall()
            )
            engine.execute(f"ALTER TABLE {table} RENAME TO kept")
            for change in CHANGES:
                value = change.format(x="number" if table == "customers" else "id")
                value = f"CAST({value} AS {kind[column]})"
                engine.execute(
                    f"CREATE TABLE {table} AS SELECT * REPLACE ({value} AS {quoted}) FROM kept"
                )
                assert rows(engine, sql, free) == before, (column, change, free)
                engine.execute(f"DROP TABLE {table}")
            engine.execute(f"ALTER TABLE kept RENAME TO {table}")


@pytest.mark.parametrize("sql", QUERIES, ids=range(len(QUERIES)))
def test_row_numbers_find_their_way_through(engine, sql):
    "The query with row numbers gives the same rows; where it says local, each row alone, too."
    local, numbered = QUERIES[sql]
    driving = driving_source(sql, COLUMNS)
    assert driving, sql
    fault = row_local_fault(sql, COLUMNS, driving)
    assert (fault == "") is local, fault
    if not numbered:
        with pytest.raises(ProjectError, match="row number"):
            thread_row_number(sql, COLUMNS, driving)
        return
    threaded = thread_row_number(sql, COLUMNS, driving)
    engine.execute(
        f"CREATE TABLE every_row AS SELECT *, row_number() OVER () - 1 AS __row__ FROM {driving}"
    )
    engine.execute(f"CREATE VIEW {driving}__rows AS SELECT * FROM every_row")
    among = engine.execute(threaded).fetchall()
    assert sorted(map(repr, (row[:-1] for row in among))) == sorted(
        map(repr, engine.execute(sql).fetchall())
    )
    for number in range(12) if local else ():
        engine.execute(
            f"CREATE OR REPLACE VIEW {driving}__rows AS "
            f"SELECT * FROM every_row WHERE __row__ = {number}"
        )
        alone = engine.execute(threaded).fetchall()
        assert sorted(map(repr, alone)) == sorted(repr(row) for row in among if row[-1] == number)


def test_what_only_the_target_needs():
    sql = (
        "WITH typed AS (SELECT *, back AND price > 2 AS lost FROM orders) "
        "SELECT id, price, c.town, lost FROM typed LEFT JOIN customers c ON c.number = customer"
    )
    lineage = column_lineage(sql, COLUMNS)
    assert target_only_columns(lineage, "lost") == {("orders", "back")}
    needed = required_columns(lineage, ["id", "price", "town"])
    assert needed["orders", "customer"] == ["town"] and ("orders", "back") not in needed
    filtered = column_lineage(f"{sql} WHERE lost IS NOT NULL", COLUMNS)
    assert not target_only_columns(filtered, "lost")
    assert required_columns(filtered, ["id"])["orders", "back"] == ["id"]


def test_a_target_that_comes_back_in_another_row_is_no_target_only_column():
    sql = "SELECT id, back, LAG(back) OVER (ORDER BY day) AS last_time FROM orders"
    assert not target_only_columns(column_lineage(sql, COLUMNS), "back")


def test_a_left_join_that_multiplies_rows_feeds_what_adds_them_up():
    sql = (
        "SELECT o.id, COUNT(*) AS n, MAX(c.since) AS since FROM orders o "
        "LEFT JOIN customers c ON c.number = o.customer GROUP BY o.id"
    )
    lineage = column_lineage(sql, COLUMNS)
    assert ("customers", "number") in lineage.of("n")
    assert ("customers", "number") not in lineage.of("id")
    inner = "SELECT o.id FROM orders o LEFT JOIN customers c ON c.number = o.customer"
    lineage = column_lineage(f"SELECT id, COUNT(*) AS n FROM ({inner}) GROUP BY id", COLUMNS)
    assert ("customers", "number") in lineage.of("n")
    assert ("customers", "number") not in lineage.of("id")


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT (", "DROP TABLE orders", ""])
def test_what_is_no_query_is_rejected(sql):
    with pytest.raises(ProjectError):
        column_lineage(sql, COLUMNS)


@example_only
def test_the_lineage_of_the_example():
    "The delay of arrival feeds the target, and through the past nearly every feature."
    columns = {
        "flights": "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time "
        "arr_delay carrier flight tailnum origin dest air_time distance hour minute time_hour",
        "weather": "origin year month day hour temp dewp humid wind_dir wind_speed wind_gust "
        "precip pressure visib time_hour",
        "planes": "tailnum year type manufacturer model engines seats speed engine",
        "airports": "faa name lat lon alt tz dst tzone",
    }
    columns = {table: names.split() for table, names in columns.items()}
    sql = (ROOT / QUERY).read_text()
    lineage = column_lineage(sql, columns)
    target = CONTRACT.target.name
    assert set(lineage.values) == set(CONTRACT.columns)
    assert lineage.values[target] == {("flights", "arr_delay")}
    assert not target_only_columns(lineage, target)
    assert lineage.values["plane_built"] == {
        ("flights", "tailnum"),
        ("planes", "tailnum"),
        ("planes", "year"),
    }
    assert ("flights", "arr_delay") in lineage.values["carrier_origin_en_route"]
    assert driving_source(sql, columns) == "flights"
    assert "a window" in row_local_fault(sql, columns, "flights")
    assert thread_row_number(sql, columns, "flights").count("__row__") > 3
