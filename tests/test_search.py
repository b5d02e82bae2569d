"""The search for hyperparameters: killed and resumed, shared by workers, with some of them fixed."""

import dataclasses
import subprocess
import sys
import time

import joblib
import pytest
from tables_of_other_kinds import houses, plants

from mle_project.folds import make_folds
from mle_project.frames import model_input, target_values
from mle_project.project import ProjectError
from mle_project.search import Search, tune


def search(table, family, metric, **options) -> Search:
    x, y = model_input(table.frame, table.contract), target_values(table.frame, table.contract)
    return Search(family, x, y, make_folds(table.frame, table.contract, 2), table.contract, metric, **options)


@pytest.fixture(scope="module")
def asked() -> Search:
    return search(houses(), "boosting", "mae")


def test_a_killed_search_resumes_and_ends_as_if_it_had_not_been(asked, tmp_path):
    undisturbed = tune(asked, trials=6)
    remembering = dataclasses.replace(asked, memory=tmp_path / "memory")
    given = {one.name: getattr(remembering, one.name) for one in dataclasses.fields(remembering)}
    joblib.dump(given, tmp_path / "search.joblib")
    program = "import joblib, sys; from mle_project.search import *; tune(Search(**joblib.load(sys.argv[1])), trials=6)"
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "search.joblib")])
    while len(remembering.recall()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    with remembering.notes.open("a") as file:
        file.write('["half a li')  # as a full disk would leave it
    before = len(remembering.recall())
    assert 2 <= before < 6
    assert tune(remembering, trials=6).trials == undisturbed.trials
    assert len(remembering.recall()) == 6


def test_a_memory_of_other_rows_does_not_count(asked, tmp_path):
    one = dataclasses.replace(asked, memory=tmp_path)
    others = [dataclasses.replace(one, y=asked.y * 2), dataclasses.replace(one, seed=1), dataclasses.replace(one, code="x = 1")]
    assert len({each.notes for each in [one, *others]}) == 4


def test_two_workers_share_a_search(asked):
    alone, shared = tune(asked, trials=5, tuner="random"), tune(asked, trials=5, tuner="random", workers=2)
    assert shared.trials == alone.trials and shared.hyperparameters == alone.hyperparameters


def test_two_workers_share_a_bayesian_search_of_classes():
    found = tune(search(plants(), "linear", "roc_auc"), trials=5, workers=2)
    assert len(found.trials) == 5 and len({str(trial["hyperparameters"]) for trial in found.trials}) == 5


def test_what_is_fixed_is_not_searched(asked):
    found = tune(dataclasses.replace(asked, fixed={"trees": 120, "leaves": 9}), trials=3)
    assert {(trial["hyperparameters"]["trees"], trial["hyperparameters"]["leaves"]) for trial in found.trials} == {(120, 9)}
    with pytest.raises(ProjectError, match="family `boosting` has no hyperparameter hats"):
        tune(dataclasses.replace(asked, fixed={"hats": 1}), trials=3)
