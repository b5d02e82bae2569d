"""Accidents at a random moment, each drill once; `make drills` holds them many times."""

import random
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from drills import DRILLS, Skipped, hold  # noqa: E402


@pytest.mark.parametrize("name", DRILLS)
def test_an_accident_loses_nothing(name, sample):
    try:
        print(hold(name, sample.root, random.Random(name)))
    except Skipped as reason:
        pytest.skip(str(reason))
