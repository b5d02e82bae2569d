"""The exported network in its three forms: size, time to load, microseconds per row.

At 1 and at 1000 rows:

    python3 benchmarks/network.py [--models models/keras] [--rows data/tables/validation.parquet]
                                  [--rounds 300]

The forms answer in turns, so that what else runs on the machine disturbs all of them alike. The
shortest time of each is printed. Time to load is that of the model in a process that has imported
its runtime. All take raw columns: the ONNX forms take them as two blocks, the SavedModel one tensor
for each. One computing thread each, as the service runs.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def load_saved_model(path: Path) -> Any:
    """A SavedModel, by the path of its file."""
    return tf.saved_model.load(str(path.parent))


def load_onnx(path: Path) -> Any:
    """A session of ONNX Runtime."""
    return open_session(path.read_bytes())


def load_model(load: Callable[[], Any]) -> tuple[float, Any]:
    """The shortest time of five that a model takes to load, and the model."""
    timed(load)  # the first time loads code
    results = [timed(load) for _ in range(5)]
    return min(seconds for seconds, _ in results), results[0][1]


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
    blocks = frame_to_arrays(frame, contract)
    columns = serving_columns(frame, contract)
    files = {"SavedModel": args.models / "saved_model" / "1" / "saved_model.pb"}
    files |= {f"ONNX {name}": args.models / name / "model.onnx" for name in ("float", "int8")}
    seconds: dict[str, float] = {}
    models: dict[str, Any] = {}
    for name, path in files.items():
        load = load_saved_model if name == "SavedModel" else load_onnx
        seconds[name], models[name] = load_model(partial(load, path))
    per_row: dict[str, dict[int, float]] = {name: {} for name in files}
    for n in (1, 1000):
        tensors = {name: tf.constant(values[:n]) for name, values in columns.items()}
        first_rows = [block[:n] for block in blocks]
        signature = models["SavedModel"].signatures["serving_default"]
        calls: dict[str, Callable[[], Any]] = {
            name: partial(run_session, models[name], *first_rows)
            for name in files
            if name != "SavedModel"
        }
        calls["SavedModel"] = partial(signature, **tensors)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(args.rounds):
            for name, call in calls.items():
                times[name].append(timed(call)[0])
        for name, durations in times.items():
            per_row[name][n] = min(durations) / n * 1e6
    for name, path in files.items():
        speed = ", ".join(f"{per_row[name][n]:8.2f} us a row for {n}" for n in (1, 1000))
        milliseconds = seconds[name] * 1e3
        size = path.stat().st_size
        print(f"{name:10} {size:>10,} bytes  loads in {milliseconds:7.1f} ms  {speed}")


if __name__ == "__main__":
    main()
