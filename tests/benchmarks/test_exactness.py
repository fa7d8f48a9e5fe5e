"""Random configurations against real steps: the claim that everything else stands on."""

from __future__ import annotations

import random

import pytest

from benchmarks import exactness
from bsr_explorer.models.lowering import PRECISIONS

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains


@pytest.mark.parametrize("seed", [3, 4, 8, 12])  # few blocks; plain, Mesa, Back Razor, recomputed, moved out
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_random_configuration_is_predicted_exactly(precision: str, seed: int) -> None:
    case = exactness.draw(random.Random(seed), precision)
    assert not exactness.compare(case, seed), case


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_so_is_one_of_the_methods_of_the_field(precision: str, seed: int) -> None:
    case = exactness.draw(random.Random(f"{seed} {precision}"), precision, of_the_field=True)
    assert not exactness.compare(case, seed, peak=True), case


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_hundred_random_configurations_are_predicted_exactly(precision: str) -> None:
    rng = random.Random(1000)
    cases = [exactness.draw(rng, precision) for _ in range(200)]
    assert not [case for case in cases if exactness.compare(case, 0)]


def test_a_wrong_prediction_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    case = exactness.draw(random.Random(12), "fp32")
    real = exactness.step_tape
    monkeypatch.setattr(exactness, "step_tape", lambda g, batch, path: real(g, batch + 1, path))
    assert exactness.compare(case, 0)
