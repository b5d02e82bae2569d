"""The exported network in its three forms: size, time to load, microseconds per row, at 1 and at 1000 rows.

    python3 benchmarks/network.py [--models models/keras] [--rows data/tables/validation.parquet] [--rounds 300]

The forms answer in turns, so that what else runs on the machine disturbs all of them alike; the shortest time of each is printed. Time to load
is that of the model in a process that has imported its runtime. All take raw columns; the ONNX forms take them as two blocks, the SavedModel one
tensor for each. One computing thread each, as the service runs.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.update(
    GOMP_SPINCOUNT="1000",
    CUDA_VISIBLE_DEVICES="-1",
    TF_CPP_MIN_LOG_LEVEL="3",
    TF_ENABLE_ONEDNN_OPTS="0",
)

import pandas as pd  # noqa: E402
import tensorflow as tf  # noqa: E402

from mle_project.artifact.predictor import Predictor, open_session, run_session  # noqa: E402
from mle_project.artifact.saved_model import serving_columns  # noqa: E402
from mle_project.core.arrays import frame_to_arrays  # noqa: E402


def timed(function, *arguments) -> tuple[float, object]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, default=Path("models/keras"))
    parser.add_argument("--rows", default="data/tables/validation.parquet")
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    contract = Predictor(args.models / "float").contract
    frame = pd.read_parquet(args.rows).head(1000)
    blocks, columns = frame_to_arrays(frame, contract), serving_columns(frame, contract)
    files = {"SavedModel": args.models / "saved_model" / "1" / "saved_model.pb"}
    files |= {f"ONNX {name}": args.models / name / "model.onnx" for name in ("float", "int8")}
    load = {
        name: (lambda path=path: open_session(path.read_bytes())) for name, path in files.items()
    }
    load["SavedModel"] = lambda: tf.saved_model.load(str(files["SavedModel"].parent))
    seconds, models = {}, {}
    for name, one in load.items():
        timed(one)  # the first time loads code
        elapsed, models[name] = zip(*[timed(one) for _ in range(5)], strict=True)
        seconds[name] = min(elapsed)
    per_row: dict[str, dict[int, float]] = {name: {} for name in files}
    for n in (1, 1000):
        tensors = {name: tf.constant(values[:n]) for name, values in columns.items()}
        signature = models["SavedModel"][0].signatures["serving_default"]
        calls = {
            name: (
                lambda one=models[name][0], n=n: run_session(one, *(block[:n] for block in blocks))
            )
            for name in files
            if name != "SavedModel"
        }
        calls["SavedModel"] = lambda served=signature, tensors=tensors: served(**tensors)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(args.rounds):
            for name, call in calls.items():
                times[name].append(timed(call)[0])
        for name, durations in times.items():
            per_row[name][n] = min(durations) / n * 1e6
    for name, path in files.items():
        speed = ", ".join(f"{per_row[name][n]:8.2f} us a row for {n}" for n in (1, 1000))
        print(
            f"{name:10} {path.stat().st_size:>10,} bytes  loads in {seconds[name] * 1e3:7.1f} ms  {speed}"
        )


if __name__ == "__main__":
    main()
