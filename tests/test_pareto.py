"""The front of costs and the hypervolume, against their definitions."""

from __future__ import annotations

from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.pareto import front, hypervolume

Row = tuple[int, ...]


def beats(mine: Row, other: Row) -> bool:
    return all(m <= o for m, o in zip(mine, other, strict=True)) and mine != other


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.tuples(*[st.integers(-4, 4)] * width), min_size=1, max_size=30)
    )
)
def test_the_front_is_what_nothing_beats(rows: list[Row]) -> None:
    """By brute force: no other beats it, and nothing before it is equal to it; in the order of its costs."""
    expected = [
        place
        for place, row in enumerate(rows)
        if row not in rows[:place] and not any(beats(other, row) for other in rows)
    ]
    found = front(*zip(*rows, strict=True))
    assert found.tolist() == sorted(expected, key=lambda place: rows[place])


def test_of_equals_the_first_stands() -> None:
    assert front([2, 1, 1, 1], [0, 5, 3, 3]).tolist() == [2, 0]


def test_nothing_has_an_empty_front() -> None:
    assert front([], []).tolist() == []


def test_whole_numbers_are_not_rounded() -> None:
    """Bytes and FLOPs beyond what a float can tell apart."""
    assert front([2**60 + 1, 2**60], [1, 2]).tolist() == [1, 0]


PAIRS = st.lists(
    st.tuples(st.integers(1, 1200), st.integers(0, 20).map(lambda n: n / 20)), min_size=0, max_size=12
)


def volume(pairs: list[tuple[int, float]], reference: int = 1000) -> float:
    return hypervolume([size for size, _ in pairs], [accuracy for _, accuracy in pairs], reference)


def test_a_hypervolume_made_by_hand() -> None:
    assert volume([(500, 0.6), (800, 0.9)]) == pytest.approx((300 * 0.6 + 200 * 0.9) / 1000)
    assert volume([(500, 0.6), (800, 0.5)]) == pytest.approx(0.3)
    assert volume([]) == volume([(1000, 1.0), (1200, 1.0)]) == 0


@given(PAIRS)
def test_the_hypervolume_is_the_mean_of_what_each_budget_buys(pairs: list[tuple[int, float]]) -> None:
    bought = [max((a for size, a in pairs if size <= byte), default=0.0) for byte in range(1000)]
    assert volume(pairs) == pytest.approx(mean(bought))


@given(PAIRS, st.integers(1, 1200), st.floats(0, 1))
def test_one_more_point_never_lowers_the_hypervolume(
    pairs: list[tuple[int, float]], size: int, accuracy: float
) -> None:
    more = volume([*pairs, (size, accuracy)])
    assert more >= volume(pairs) - 1e-12
    assert 0 <= more <= 1


@given(PAIRS.flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs * 2))))
def test_order_and_repetition_leave_the_hypervolume_alone(
    both: tuple[list[tuple[int, float]], list[tuple[int, float]]],
) -> None:
    assert volume(both[0]) == volume(both[1])


@given(PAIRS)
def test_the_front_has_the_hypervolume_of_all(pairs: list[tuple[int, float]]) -> None:
    ahead = front([size for size, _ in pairs], [-accuracy for _, accuracy in pairs])
    assert volume([pairs[place] for place in ahead]) == volume(pairs)
