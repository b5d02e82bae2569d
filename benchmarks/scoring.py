"""Rows per second of scoring a whole file, against the fitted pipeline alone on the same chunks.

Also the peak memory of scoring for N and 10 N rows:

    python3 benchmarks/scoring.py [--model models/final] [--rows data/tables/test.parquet]
                                  [--rounds 3]

Both sides take the same Parquet file in the same chunks, in turns within one run, with one
computing thread and then with all. Scoring reads, checks every cell against the contract, answers
and writes. The pipeline is timed alone (`predict_proba` and nothing else), and with reading and
writing around it but no checks. What is printed first is how long each part of scoring takes.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(
    GOMP_SPINCOUNT="1000",
    CUDA_VISIBLE_DEVICES="-1",
    TF_CPP_MIN_LOG_LEVEL="3",
    TF_ENABLE_ONEDNN_OPTS="0",
)

import joblib  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from mle_project.artifact.predictor import Predictor, run_session  # noqa: E402
from mle_project.core.arrays import feature_frame, frame_to_arrays  # noqa: E402
from mle_project.modeling.metrics import predict  # noqa: E402
from mle_project.scoring.batch import (  # noqa: E402
    invalid_cells,
    prediction_schema,
    prediction_table,
    processors,
    score_file,
    writer,
)
from mle_project.scoring.readers import read_chunks  # noqa: E402

PEAK = r"""
import re, sys
from mle_project.artifact.predictor import Predictor
from mle_project.scoring.batch import score_file
score_file(sys.argv[1], sys.argv[2], Predictor(sys.argv[3]), progress=False)
print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""


TABLE = "table without blocks and ask"


def native(
    source: Path, target: Path, model: Any, predictor: Predictor, rows: int
) -> tuple[float, float]:
    """Seconds that the pipeline takes for the chunks of a file: alone, with reading and writing."""
    began = time.perf_counter()
    alone = 0.0
    outputs = []
    for frame in read_chunks(source, predictor.contract, rows):
        x = feature_frame(frame, predictor.contract)
        before = time.perf_counter()
        outputs.append(predict(model, x, predictor.contract.task))
        alone += time.perf_counter() - before
    pd.DataFrame(np.concatenate(outputs)).add_prefix("answer_").to_parquet(target)
    return alone, time.perf_counter() - began


def parts(source: Path, scratch: Path, predictor: Predictor, rows: int) -> dict[str, float]:
    """Seconds by part of scoring, one chunk after the other."""
    spent = dict.fromkeys(("read", "check", "blocks", "ask", TABLE, "write"), 0.0)

    def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments)
        spent[name] += time.perf_counter() - began
        return result

    chunks = read_chunks(source, predictor.contract, rows)
    schema = None
    while (frame := timed("read", next, chunks, None)) is not None:
        schema = schema or prediction_schema(predictor, list(frame))
        numbers = np.arange(len(frame))
        timed("check", invalid_cells, frame, numbers, predictor.contract)
        before = spent["blocks"] + spent["ask"]
        blocks = timed("blocks", frame_to_arrays, frame, predictor.contract)
        timed("ask", run_session, predictor.session, *blocks)
        table = timed(TABLE, prediction_table, frame, numbers, predictor, schema)
        spent[TABLE] -= spent["blocks"] + spent["ask"] - before
        with writer(scratch / "parts.parquet", "parquet", schema) as write:
            timed("write", write, table)
    return spent


def compare(
    source: Path, model: Any, predictor: Predictor, rows: int, threads: int, rounds: int
) -> dict[str, float]:
    """Rows per second of scoring and of the pipeline: the median of some rounds in turns."""
    seconds: dict[str, list[float]] = {
        "scoring": [],
        "pipeline alone": [],
        "pipeline, reading and writing": [],
    }
    result: dict[str, Any] = {}
    for _ in range(rounds):
        with threadpool_limits(threads):
            target = source.with_name("native.parquet")
            alone, around = native(source, target, model, predictor, rows)
        result = score_file(
            source,
            source.with_name("out.parquet"),
            predictor,
            chunk_size=rows,
            threads=threads,
            progress=False,
        )
        seconds["scoring"].append(result["seconds"])
        seconds["pipeline alone"].append(alone)
        seconds["pipeline, reading and writing"].append(around)
    return {name: result["rows"] / statistics.median(each) for name, each in seconds.items()}


def print_peak_memory(source: Path, frame: pd.DataFrame, model: str) -> None:
    """Score a table once and ten times as long, each in a process of its own."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for times in (1, 10):
        with pq.ParquetWriter(source, table.schema) as file:
            for _ in range(times):
                file.write_table(table)
        target = source.with_name("out.parquet")
        command = [sys.executable, "-c", PEAK, str(source), str(target), model]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
        mebibytes = int(process.stdout) / 1024
        print(f"peak memory for {len(frame) * times:,} rows: {mebibytes:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="models/final")
    parser.add_argument("--rows", default="data/tables/test.parquet")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    predictor = Predictor(args.model)
    model = joblib.load(Path(args.model) / "native.joblib")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        frame = pd.read_parquet(args.rows)
        frame = pd.concat([frame] * -(-400_000 // len(frame)), ignore_index=True)
        source = scratch / "in.parquet"
        frame.to_parquet(source)
        parts(source, scratch, predictor, 50_000)  # the first time imports pandera
        spent = parts(source, scratch, predictor, 50_000)
        each = ", ".join(f"{name} {value:.3f} s" for name, value in spent.items())
        print(f"{type(model).__name__}, {len(frame):,} rows; parts: {each}")
        for threads in sorted({1, processors()}):
            for rows in (50_000, 1_000):
                speed = compare(source, model, predictor, rows, threads, args.rounds)
                rates = ", ".join(
                    f"{name} {value:,.0f} rows/s (1 : {speed['scoring'] / value:.2f})"
                    for name, value in speed.items()
                )
                print(f"threads {threads}, chunks of {rows:,}: {rates}")
        print_peak_memory(source, frame, args.model)


if __name__ == "__main__":
    main()
