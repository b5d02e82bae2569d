"""A source in the form of a spreadsheet, a query, and a model fitted on what it makes of it."""

from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import CliRunner
from scored_tables import visits

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.artifact.export import save, write_manifest, write_query
from mle_project.artifact.predictor import Predictor
from mle_project.cli.main import main
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.contract import parse_contract
from mle_project.data.engines import load, open_engine
from mle_project.data.query_record import query_json, query_record
from mle_project.data.sources import local_files
from mle_project.modeling.families import build_family

CASTS = """SELECT visit, day, items, CAST(REPLACE(minutes, ',', '.') AS DOUBLE) AS minutes,
  CAST(REPLACE(REPLACE(member, 'ja', 'true'), 'nein', 'false') AS BOOLEAN) AS member,
  {door} AS door, payment, back = 'ja' AS back FROM visits"""
ROW_LOCAL = CASTS.format(door="door")
JOINED = CASTS.format(door="doors.name") + " LEFT JOIN doors ON doors.code = visits.door"
WINDOW = f"""SELECT * REPLACE (SUM(items) OVER (ORDER BY visit ROWS BETWEEN 3 PRECEDING
  AND 1 PRECEDING) AS items) FROM ({ROW_LOCAL})"""
DOORS = "code,name\nn,north\ns,south\n"


def raw_visits(rows: int = 900) -> pd.DataFrame:
    "The visits of a shop as its spreadsheet has them."
    frame = visits(rows)[1]
    minutes = frame["minutes"].round(2).astype(str).str.replace(".", ",", regex=False)
    raw = frame.assign(minutes=minutes, day=frame["day"].dt.strftime("%d.%m.%Y"))
    for name in ("member", "back"):
        raw[name] = np.where(frame[name], "ja", "nein")
    raw["items"] = [("-" if pd.isna(value) else str(int(value))) for value in frame["items"]]
    return raw


class Shop:
    "A source, a query and a model that was fitted on what the query makes of the source."

    def __init__(self, folder: Path, sql: str, raw: pd.DataFrame) -> None:
        self.folder = folder
        self.raw = raw
        self.text = visits()[0]
        self.contract = parse_contract(self.text)
        raw.to_csv(folder / "visits.csv", index=False, sep=";", encoding="cp1252")
        (folder / "doors.csv").write_text(DOORS)
        self.sources = {
            "visits": {
                "path": str(folder / "visits.csv"),
                "delimiter": ";",
                "encoding": "cp1252",
                "null_values": "-",
            },
            "doors": {"path": str(folder / "doors.csv")},
        }
        copies = folder / "copies"
        copies.mkdir()
        files = {name: local_files(name, one, copies) for name, one in self.sources.items()}
        self.record = query_record(sql, self.sources, files, self.contract, copies)
        with open_engine("duckdb", 1, copies) as engine:
            for name in files:
                load(engine, name, files[name], copies)
            made = engine.con.execute(f"SELECT * FROM ({sql}) ORDER BY visit").to_arrow_table()
        self.records = made.drop_columns("back").to_pandas()
        self.model = folder / "model"
        x = feature_frame(self.records, self.contract)
        y = encode_target(made.select(["back"]).to_pandas(), self.contract)
        fitted = build_family("linear", {}, self.contract, 0).fit(x, y)
        facts = {"threshold": 0.5, "family": "linear"}
        save(self.model, fitted, self.contract, self.text, facts, x, tolerance=1e-4)
        write_query(self.model, query_json(self.record))
        write_manifest(self.model)
        self.expected = Predictor(self.model).predict_frame(self.records)[:, 1]

    def score(self, file: Path, *options: str) -> tuple[int, str, pd.DataFrame | None]:
        "What `mle score` prints and writes."
        target = self.folder / "predictions.parquet"
        target.unlink(missing_ok=True)
        words = ["score", str(file), str(target), "--model", str(self.model), *options]
        result = CliRunner().invoke(main, words)
        answers = pd.read_parquet(target) if target.exists() else None
        return result.exit_code, result.output + str(result.exception or ""), answers


def pd_table(frame: pd.DataFrame):
    import pyarrow

    return pyarrow.Table.from_pandas(frame.astype(str), preserve_index=False)
