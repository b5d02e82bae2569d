"""The library calls that the graph exists to make, with nothing around them: reading and joining, fitting, scoring.

Run in a clone whose graph has run (it takes the hyperparameters of every trial from metrics/). Imports are not counted.
The last line printed is JSON: seconds by kind.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import yaml

from mle_project.core.project import DETERMINISTIC_ENV

os.environ.update(DETERMINISTIC_ENV)

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.core.arrays import encode_target, feature_frame  # noqa: E402
from mle_project.core.contract import read_contract  # noqa: E402
from mle_project.data.engines import run_query  # noqa: E402
from mle_project.data.parquet import systematic_sample  # noqa: E402
from mle_project.data.splits import cv_splits  # noqa: E402
from mle_project.modeling.families import (  # noqa: E402
    build_family,
    family_hyperparameters,
    selected_family,
)
from mle_project.modeling.metrics import all_metrics, predict  # noqa: E402

seconds = {"read and join": 0.0, "fit": 0.0, "score": 0.0}


def timed(kind, function, *arguments):
    began = time.perf_counter()
    result = function(*arguments)
    seconds[kind] += time.perf_counter() - began
    return result


params = yaml.safe_load(Path("params.yaml").read_text())
contract = read_contract("contract.yaml")
asked = params["tables"]
with tempfile.TemporaryDirectory() as place:
    timed(
        "read and join",
        run_query,
        asked["sources"],
        asked["query"],
        asked["threads"],
        contract,
        Path(place),
    )
splits = {
    name: timed("read and join", pd.read_parquet, f"data/tables/{name}.parquet")
    for name in ("train", "validation", "test")
}
x = {name: feature_frame(frame, contract) for name, frame in splits.items()}
y = {name: encode_target(frame, contract) for name, frame in splits.items()}

chosen = params["model_selection"]
part = systematic_sample(splits["train"], chosen["search_rows"])
x_part, y_part, folds = (
    feature_frame(part, contract),
    encode_target(part, contract),
    cv_splits(part, contract, chosen["n_folds"], chosen["seed"]),
)
for line in Path(chosen["trials_file"]).read_text().splitlines():
    trial = json.loads(line)
    for before, after in folds:
        model = build_family(trial["family"], trial["hyperparameters"], contract, 0)
        timed("fit", model.fit, x_part.iloc[before], y_part[before])
        timed(
            "score",
            lambda m=model, a=after: all_metrics(
                contract.task, y_part[a], predict(m, x_part.iloc[a], contract.task)
            ),
        )

best = json.loads(Path(chosen["hyperparameters"]).read_text())
for family in best["families"]:
    model = build_family(family, family_hyperparameters(best, family), contract, 0)
    timed("fit", model.fit, x["train"], y["train"])
    timed("score", predict, model, x["validation"], contract.task)
model = build_family(*selected_family(best, None), contract, 0)
timed(
    "fit",
    model.fit,
    pd.concat([x["train"], x["validation"]]),
    np.concatenate([y["train"], y["validation"]]),
)
timed("score", predict, model, x["test"], contract.task)
print(json.dumps({kind: round(value, 1) for kind, value in seconds.items()}))
