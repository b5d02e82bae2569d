"""The search for hyperparameters: killed and resumed, shared by workers, with some fixed."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from tables_of_other_kinds import houses, plants

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.contract import EXAMPLE, parse_contract
from mle_project.core.project import ProjectError
from mle_project.data.splits import cv_splits
from mle_project.features import SELECTION_METHODS, reduction_step
from mle_project.modeling.metrics import scorer
from mle_project.modeling.tuning import Search, score_folds, tune


def search(table, family, metric, **options) -> Search:
    x = feature_frame(table.frame, table.contract)
    y = encode_target(table.frame, table.contract)
    return Search(
        family, x, y, cv_splits(table.frame, table.contract, 2), table.contract, metric, **options
    )


@pytest.fixture(scope="module")
def example_search() -> Search:
    return search(houses(), "boosting", "mae")


@pytest.mark.slow
@pytest.mark.parametrize(("tuner", "trials"), [("random", 6), ("bayesian", 6), ("hyperband", 4)])
def test_a_killed_search_resumes_and_ends_as_if_it_had_not_been(
    example_search, tuner, trials, tmp_path
):
    undisturbed = tune(example_search, trials, tuner)
    remembering = dataclasses.replace(example_search, cache_dir=tmp_path / "memory")
    search_arguments = {
        one.name: getattr(remembering, one.name) for one in dataclasses.fields(remembering)
    }
    joblib.dump(search_arguments, tmp_path / "search.joblib")
    program = "import joblib, sys; import mle_project.candidates; "
    program += "from mle_project.modeling.tuning import *; "
    program += "tune(Search(**joblib.load(sys.argv[1])), int(sys.argv[2]), sys.argv[3])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "search.joblib"), str(trials), tuner]
    )
    while len(remembering.cached_scores()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    with remembering.cache_file.open("a") as file:
        file.write('["half a li')  # as a full disk would leave it
    before = len(remembering.cached_scores())
    assert 2 <= before < len(undisturbed.trials)
    result = tune(remembering, trials, tuner)
    assert (
        result.trials == undisturbed.trials
        and result.hyperparameters == undisturbed.hyperparameters
    )
    assert len(remembering.cached_scores()) == len(undisturbed.trials)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_processes_that_evaluate_families_end_with_the_stage(tmp_path):
    program = "import os, sys, time; from joblib import Parallel, delayed; "
    program += "from mle_project.model_selection import call_in_worker; "
    program += "wait = lambda path: (open(path, 'w').write(str(os.getpid())), time.sleep(600)); "
    program += "Parallel(2)(delayed(call_in_worker)(wait, path) for path in sys.argv[1:])"
    files = [tmp_path / "one", tmp_path / "two"]
    stage = subprocess.Popen([sys.executable, "-c", program, *map(str, files)])
    while not all(path.exists() and path.read_text() for path in files):
        assert stage.poll() is None
        time.sleep(0.1)
    workers = [int(path.read_text()) for path in files]
    assert all(map(is_running, workers))
    stage.kill()
    stage.wait()
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "a worker outlives its stage"
        time.sleep(0.1)


def test_a_memory_of_other_rows_does_not_count(example_search, tmp_path):
    one = dataclasses.replace(example_search, cache_dir=tmp_path)
    others = [
        dataclasses.replace(one, y=example_search.y * 2),
        dataclasses.replace(one, seed=1),
        dataclasses.replace(one, code="x = 1"),
    ]
    assert len({each.cache_file for each in [one, *others]}) == 4


@pytest.mark.slow
def test_two_workers_share_a_search(example_search):
    alone = tune(example_search, max_trials=5, tuner="random")
    shared = tune(example_search, max_trials=5, tuner="random", n_workers=2)
    assert shared.trials == alone.trials and shared.hyperparameters == alone.hyperparameters


@pytest.mark.slow
def test_two_workers_share_a_bayesian_search_of_classes():
    result = tune(search(plants(), "linear", "roc_auc"), max_trials=5, n_workers=2)
    assert (
        len(result.trials) == 5
        and len({str(trial["hyperparameters"]) for trial in result.trials}) == 5
    )


def test_hyperband_gives_more_rows_to_fewer_trials(example_search):
    result = tune(example_search, max_trials=4, tuner="hyperband")
    shares = [trial["share"] for trial in result.trials]
    assert [round(9 * share) for share in shares] == [9] + [1] * 9 + [3] * 3 + [9]
    small = result.trials[1:10]
    third = result.trials[10:13]
    scored = {str(trial["hyperparameters"]): trial["score"] for trial in small}
    assert (
        sorted(scored[str(trial["hyperparameters"])] for trial in third)
        == sorted(scored.values())[-3:]
    )
    assert result.folds.mean() == max(
        trial["score"] for trial in result.trials if trial["share"] == 1
    )


@pytest.mark.slow
def test_two_workers_share_a_hyperband_search(example_search):
    # While the third of three trials runs, the other worker begins the next bracket: on a busy
    # machine the first trial on all rows comes late.
    result = tune(example_search, max_trials=7, tuner="hyperband", n_workers=2)
    shares = [round(9 * trial["share"]) for trial in result.trials[1:]]
    assert (
        sorted(set(shares)) == [1, 3, 9] and 54 <= sum(shares) <= 54 + 9
    )  # the second worker may be busy when the budget ends


def test_hyperband_rejects_too_few_rows():
    many = search(plants(), "linear", "roc_auc")
    first, second, third = (np.flatnonzero(many.y == number) for number in range(3))
    before = np.concatenate(
        [first[:10], second[:5], third[:5]]
    )  # every ninth of them is of the first or the third class
    few = dataclasses.replace(
        many, folds=[(before, np.setdiff1d(np.arange(len(many.y)), before))] * 2
    )
    with pytest.raises(Exception, match="hyperband fits on a 9th of the rows first"):
        tune(few, max_trials=4, tuner="hyperband")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_ends_when_its_seconds_are_up(example_search, workers, capsys):
    assert (
        len(tune(example_search, max_trials=50, timeout_seconds=0, n_workers=workers).trials) == 1
    )
    assert "boosting: 0 seconds were up after trial 1" in capsys.readouterr().out
    assert len(tune(example_search, max_trials=500, tuner="random", timeout_seconds=3).trials) < 500
    assert len(tune(example_search, max_trials=3, tuner="random", timeout_seconds=3600).trials) == 3


@pytest.mark.parametrize("reduction", [*SELECTION_METHODS, "pca"])
def test_columns_are_chosen_without_the_rows_held_out(reduction):
    """Noise stays noise.

    Chosen on all rows, the best of four hundred random columns would promise a ROC AUC of 0.8.
    """
    chance = np.random.default_rng(0)
    x = chance.normal(size=(120, 400)).astype(np.float32)
    y = np.arange(120) % 2

    def make_pipeline():
        return Pipeline(
            [*reduction_step("binary", reduction, 0.05), ("model", LogisticRegression())]
        )

    folds = list(KFold(4, shuffle=True, random_state=0).split(x))
    scores = score_folds(
        make_pipeline,
        pd.DataFrame(x),
        y,
        folds,
        scorer("binary", "roc_auc"),
        parse_contract(EXAMPLE),
    )
    assert abs(np.mean(scores) - 0.5) < 0.12


def test_what_is_fixed_is_not_searched(example_search):
    result = tune(
        dataclasses.replace(example_search, fixed={"max_iter": 120, "max_leaf_nodes": 9}),
        max_trials=3,
    )
    assert {
        (trial["hyperparameters"]["max_iter"], trial["hyperparameters"]["max_leaf_nodes"])
        for trial in result.trials
    } == {(120, 9)}
    with pytest.raises(ProjectError, match="family `boosting` has no hyperparameter hats"):
        tune(dataclasses.replace(example_search, fixed={"hats": 1}), max_trials=3)
