"""Random schedules against real steps."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks import schedules
from benchmarks.exactness import draw
from bsr_explorer.methods import Alast, DropBP, Lisa, Mesa, Method
from bsr_explorer.models.lowering import PRECISIONS

pytestmark = pytest.mark.thorough  # real steps


@pytest.mark.parametrize(
    "method", [Lisa(1, 1), DropBP(0.5, "count") + Mesa(), Alast(1, 1000.0, "sample", False)]
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_step_of_a_schedule_is_predicted_exactly(method: Method, precision: str) -> None:
    case = draw(random.Random(12), precision)
    case = replace(
        case, shape={**case.shape, "depth": 3, "class_token": True, "global_pool": "token"}, method=method
    )
    steps, missed = schedules.follow(case, 0)
    assert steps > 1 and not missed
