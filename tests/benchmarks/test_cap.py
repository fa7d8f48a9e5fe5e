"""A step under a real limit on memory."""

from __future__ import annotations

import sys

import pytest

from benchmarks import cap
from bsr_explorer import Config

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_step_runs_just_above_its_peak_and_fails_just_below() -> None:
    config = Config(model="deit_s", image_size=112, batch_size=16, method="bsr")
    assert (cap.run(config, 0.01), cap.run(config, -0.01)) == ("runs", "fails")


def test_the_cases_are_configurations() -> None:
    assert len({str(Config(**case)) for case in cap.CASES}) == len(cap.CASES) >= 5
