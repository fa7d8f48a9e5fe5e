"""Two orders of the same configurations: ranks, their correlation, and what the recommendation was worth."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.confirm.orders import Orders, Reached
from bsr_explorer.report.front import Point
from bsr_explorer.report.study.findings import Findings

ACCURACIES = st.lists(st.floats(0, 1), min_size=3, max_size=8)


@pytest.fixture(scope="module")
def point(finished_once: Path) -> Point:
    return Findings.read(finished_once).points[0]


def orders(point: Point, said: list[float], reached: list[float], recommended: int = 0) -> Orders:
    """Of configurations of rising memory."""
    pairs = enumerate(zip(said, reached, strict=True))
    made = [Reached(replace(point, number=n, score=a, bytes=100 + n), (b,), 100) for n, (a, b) in pairs]
    return Orders(tuple(made), recommended)


@given(ACCURACIES)
def test_an_order_is_that_of_itself_and_not_of_its_reverse(point: Point, said: list[float]) -> None:
    same, other = orders(point, said, said), orders(point, said, [1 - value for value in said])
    ranks = same.ranks()
    assert all(a == b for a, b in ranks)
    assert min(a for a, _ in ranks) == 1
    if len({1 - value for value in said}) == len(set(said)) > 1:
        assert same.spearman == same.kendall == pytest.approx(1.0)
        assert other.spearman == pytest.approx(-1.0, abs=1e-5)


def test_correlations_are_those_of_the_ranks(point: Point) -> None:
    made = orders(point, [0.1, 0.2, 0.3, 0.4], [0.2, 0.1, 0.3, 0.4])
    assert made.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert made.kendall == pytest.approx((5 - 1) / 6)
    assert made.ranks() == [(4, 3), (3, 4), (2, 2), (1, 1)]


@pytest.mark.parametrize(
    ("said", "reached"),
    [([0.1, 0.2], [0.1, 0.2]), ([0.5] * 4, [0.1, 0.2, 0.3, 0.4]), ([0.1, 0.2, 0.3], [0.5] * 3)],
)
def test_where_nothing_can_be_ranked_there_is_no_correlation(
    point: Point, said: list[float], reached: list[float]
) -> None:
    made = orders(point, said, reached)
    assert made.spearman is None
    assert made.kendall is None


def test_the_best_is_of_what_takes_no_more_memory(point: Point) -> None:
    made = orders(point, [0.1, 0.2, 0.3, 0.4], [0.5, 0.4, 0.3, 0.9], recommended=2)
    assert made.taken is made.reached[2]
    assert made.best is made.reached[0]
    alone = replace(made, recommended=9)
    assert alone.taken is None
    assert alone.best is None


def test_seeds_are_averaged_and_runs_that_failed_left_out(point: Point) -> None:
    run = replace(point.record, key="a", split="train 20, validation 50")
    runs = [
        replace(run, accuracy=0.4, seed=0),
        replace(run, accuracy=0.6, seed=1),
        replace(run, key="b", status="diverged", accuracy=None),
    ]
    points = [replace(point, number=n, record=replace(point.record, key=key)) for n, key in enumerate("ab")]
    (each,) = Orders.of(points, runs, 0).reached
    assert (each.point.number, each.scores, each.score) == (0, (0.4, 0.6), 0.5)
    spread = math.sqrt(0.02)
    assert each.standard_error == pytest.approx(math.sqrt(0.25 / 50 + spread**2 / 2))
