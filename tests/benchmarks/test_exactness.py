"""Random configurations against real steps: the claim that everything else stands on."""

from __future__ import annotations

import random

import pytest

from benchmarks import exactness


@pytest.mark.parametrize("seed", range(30))
def test_a_random_configuration_is_predicted_exactly(seed: int) -> None:
    case = exactness.draw(random.Random(seed))
    assert not exactness.compare(case, seed), case


@pytest.mark.slow
def test_three_hundred_random_configurations_are_predicted_exactly() -> None:
    rng = random.Random(1000)
    missed = [case for case in (exactness.draw(rng) for _ in range(300)) if exactness.compare(case, 0)]
    assert not missed


def test_a_wrong_prediction_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    case = exactness.draw(random.Random(0))
    real = exactness.step_tape
    monkeypatch.setattr(exactness, "step_tape", lambda g, batch, path: real(g, batch + 1, path))
    assert exactness.compare(case, 0)
