"""Accidents at a random moment, each drill once and on the quickest stage; `make drills` holds them many times.

Ctrl-C and kill -9 of `dvc repro` are in test_bad_input.py.
"""

import random
import sys

import pytest
from projects import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from drills import DRILLS, Skipped, hold  # noqa: E402


@pytest.mark.parametrize(
    "name", [name for name in DRILLS if name not in ("ctrl-c", "kill -9 dvc repro")]
)
def test_an_accident_loses_nothing(name, sample):
    try:
        print(hold(name, sample.root, random.Random(name), ("bento",)))
    except Skipped as reason:
        pytest.skip(str(reason))
