"""Expected improvement: beside the hypervolume itself, by integration over the unknown accuracy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from bsr_explorer.pareto import hypervolume
from bsr_explorer.search.improvement import expected_improvement

costs = st.integers(1, 20)
points = st.lists(st.tuples(costs, costs, st.floats(0, 1)), max_size=7)


def volume(points: list[tuple[int, int, float]], reference: int, dimensions: int) -> float:
    """Integral of the best accuracy within the costs, cell by cell."""
    total = 0.0
    for corner in itertools.product(range(reference), repeat=dimensions):
        inside = [p[2] for p in points if all(p[d] <= corner[d] for d in range(dimensions))]
        total += max(inside, default=0.0)
    return total / reference**dimensions


def expected(
    seen: list[tuple[int, int, float]], at: tuple[int, int], normal: tuple[float, float], d: int
) -> float:
    """As a mean over quantiles of the accuracy."""
    before = volume(seen, 20, d)
    accuracies = normal[0] + normal[1] * ndtri((np.arange(60) + 0.5) / 60)
    return float(np.mean([volume([*seen, (*at, accuracy)], 20, d) - before for accuracy in accuracies]))


def ours(
    seen: list[tuple[int, int, float]], at: tuple[int, int], normal: tuple[float, float], d: int
) -> float:
    known = np.array(seen, dtype=float).reshape(-1, 3)
    mean, deviation = np.array([normal[0]]), np.array([normal[1]])
    arguments: tuple[Any, ...] = (
        np.array([at], dtype=float)[:, :d],
        known[:, :d],
        known[:, 2],
        np.full(d, 20.0),
    )
    return float(expected_improvement(mean, deviation, *arguments)[0])


@settings(max_examples=15)
@given(points, st.tuples(costs, costs), st.floats(0, 1), st.sampled_from([1, 2]))
def test_a_known_accuracy_adds_its_hypervolume(
    seen: list[tuple[int, int, float]], at: tuple[int, int], accuracy: float, dimensions: int
) -> None:
    added = volume([*seen, (*at, accuracy)], 20, dimensions) - volume(seen, 20, dimensions)
    assert ours(seen, at, (accuracy, 1e-9), dimensions) == pytest.approx(added, abs=1e-7)


@settings(max_examples=4)
@given(points, st.tuples(costs, costs), st.floats(0.2, 0.8), st.sampled_from([1, 2]))
def test_an_unknown_accuracy_adds_the_expectation(
    seen: list[tuple[int, int, float]], at: tuple[int, int], mean: float, dimensions: int
) -> None:
    normal = (mean, 0.05)
    assert ours(seen, at, normal, dimensions) == pytest.approx(
        expected(seen, at, normal, dimensions), abs=1e-3
    )


@given(st.lists(st.tuples(costs, st.floats(0, 1)), min_size=1, max_size=7), costs, st.floats(0, 1))
def test_it_is_the_reports_hypervolume(seen: list[tuple[int, float]], size: int, accuracy: float) -> None:
    sizes, reached = [p[0] for p in seen], [p[1] for p in seen]
    added = hypervolume([*sizes, size], [*reached, accuracy], 20) - hypervolume(sizes, reached, 20)
    assert ours([(s, 1, a) for s, a in seen], (size, 1), (accuracy, 1e-9), 1) == pytest.approx(
        added, abs=1e-7
    )


@given(points, st.tuples(costs, costs), st.floats(0, 1), st.floats(0.01, 0.3), st.sampled_from([1, 2]))
def test_more_is_expected_of_the_cheaper_the_better_and_the_less_known(
    seen: list[tuple[int, int, float]], at: tuple[int, int], mean: float, deviation: float, dimensions: int
) -> None:
    here = ours(seen, at, (mean, deviation), dimensions)
    assert here >= 0
    cheaper = (max(1, at[0] - 3), max(1, at[1] - 3))
    for more in (
        ours(seen, cheaper, (mean, deviation), dimensions),
        ours(seen, at, (mean + 0.1, deviation), dimensions),
        ours(seen, at, (mean, deviation * 1.5), dimensions),
    ):
        assert more >= here - 1e-12


def test_beyond_the_reference_nothing_is_gained() -> None:
    assert ours([], (20, 1), (0.9, 0.1), 1) == 0
    assert ours([(25, 1, 0.9)], (10, 1), (0.5, 1e-9), 1) == pytest.approx(0.25)
