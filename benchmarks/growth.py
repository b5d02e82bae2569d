"""How cost grows with rows: the tables stage, selection, the final fit and scoring.

The rows are the example's, repeated year after year and perturbed. Run it from the root after
`make repro`:

    python3 benchmarks/growth.py [1 3 10 30]

It clones the committed state into a temporary folder and works there. The exponent is the slope of
the logarithm of processor seconds over that of rows: 1 is proportional. Other programs on the
machine hardly change it.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from budgets import ROOT, Cost, measure

PREPARE = """
import json, sys, yaml, duckdb
from pathlib import Path
from mle_project.core.project import stage_params
from mle_project.data.sources import local_files

times = int(sys.argv[1])
folder = Path("data/raw")
sources = stage_params("tables")["sources"]
engine = duckdb.connect()
engine.sql("SET TimeZone = 'UTC'")
for name, source in sources.items():
    files = local_files(name, source, folder)
    words = files.null_values or None
    table = engine.read_csv(str(files.paths[0]), na_values=words, sample_size=-1)
    table.create_view(name)
noise = "CAST(hash(flight, tailnum, time_hour, g) % 11 AS BIGINT) - 5"
shifted = {
    "flights": f", dep_delay + {noise} AS dep_delay, arr_delay + {noise} AS arr_delay",
    "weather": "",
}
for name, perturbed in shifted.items():
    years = f"(SELECT CAST(unnest(range({times})) AS INTEGER) AS g)"
    moved = "year + g AS year, time_hour + to_years(g) AS time_hour"
    columns = f"* EXCLUDE (g) REPLACE ({moved}{perturbed})"
    engine.sql(f"COPY (SELECT {columns} FROM {name}, {years}) TO 'data/raw/{name}.parquet'")
    sources[name] = {"path": f"data/raw/{name}.parquet"}


def month(twelfths):
    months = times * twelfths
    return f"{2013 + months // 12}-{months % 12 + 1:02d}-01"


params = yaml.safe_load(Path("params.yaml").read_text())
split = {"kind": "time", "validation": month(8), "test": month(10)}
params["tables"] |= {"sources": sources, "split": split}
Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
"""


def grown(times: int, folder: Path) -> tuple[int, dict[str, Cost]]:
    "The rows, and what each step costs, at `times` the rows."
    clone = folder / f"x{times}"
    log = folder / "log"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    (clone / "dvc.lock").unlink(missing_ok=True)
    os.environ |= {"PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}", "PYTHONPATH": str(clone)}
    measure(f"{ROOT}/.venv/bin/python", "-c", PREPARE, str(times), cwd=clone, log=log)
    measure("dvc", "repro", "fingerprint", cwd=clone, log=log)
    steps = {
        stage: ("dvc", "repro", "--single-item", stage)
        for stage in ("tables", "model_selection", "final_model")
    }
    steps |= {"score": ("mle", "score", "data/tables/train.parquet", "answers.parquet")}
    costs: dict[str, Cost] = {}
    for name, command in steps.items():
        cost = measure(*command, cwd=clone, log=log)
        costs[name] = cost
        print(
            f"x{times} {name}: {cost.seconds:,.0f} s ({cost.work:,.0f} s of processor), "
            f"{cost.memory:.1f} GiB",
            flush=True,
        )
    rows = json.loads((clone / "metrics" / "tables.json").read_text())
    return sum(rows[name]["rows"] for name in ("train", "validation", "test")), costs


def main() -> None:
    steps = [int(word) for word in sys.argv[1:]] or [1, 3, 10, 30]
    costs: dict[int, dict[str, Cost]] = {}
    for times in steps:
        with tempfile.TemporaryDirectory() as folder:
            rows, costs[times] = grown(times, Path(folder))
        print(f"x{times} had {rows:,} rows", flush=True)
    first = steps[0]
    last = steps[-1]
    for name in list(costs[first]) if len(steps) > 1 else []:
        slope = math.log(costs[last][name].work / costs[first][name].work) / math.log(last / first)
        print(f"{name:16} exponent {slope:.2f}")


if __name__ == "__main__":
    main()
