"""The front of a study, on points made by hand and against the definition."""

from __future__ import annotations

from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.report.front import Point, front, points
from tests.report.points import made, numbers, point, record, runs


def test_the_front_goes_from_little_memory_to_much_accuracy() -> None:
    every = made((300, 0.9), (100, 0.5), (200, 0.7), (250, 0.6), (400, 0.9), (50, 0.1))
    assert numbers(front(every)) == [5, 1, 2, 0]


def test_of_equal_trials_the_first_stands() -> None:
    assert numbers(front(made((100, 0.5), (100, 0.5)))) == [0]
    assert numbers(front(reversed(made((100, 0.5), (100, 0.5))))) == [0]


def test_of_trials_equal_in_one_the_better_stands() -> None:
    assert numbers(front(made((100, 0.4), (100, 0.5)))) == [1]
    assert numbers(front(made((200, 0.5), (100, 0.5)))) == [1]


def test_nothing_has_an_empty_front() -> None:
    assert front([]) == []


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12).map(lambda n: n / 12)), max_size=30))
def test_the_front_is_what_nothing_dominates(pairs: list[tuple[int, float]]) -> None:
    every = made(*pairs)

    def beaten(mine: Point) -> bool:
        return any(
            other.bytes <= mine.bytes
            and other.score >= mine.score
            and ((other.bytes, other.score) != (mine.bytes, mine.score) or other.number < mine.number)
            for other in every
        )

    expected = sorted((p for p in every if not beaten(p)), key=lambda p: p.bytes)
    assert front(every) == expected


def test_points_are_the_finished_trials_in_order() -> None:
    records = {
        9: record(100, 0.5),
        2: record(200, 0.7),
        4: record(300, None, status="diverged"),
        3: record(300, 0.9, status="stopped"),
        5: record(300, None, status="failed"),
        7: record(300, None, status="out_of_memory"),
        6: record(300, 0.3, status="failed"),
    }
    found = points(records)
    assert [(p.number, p.bytes, p.score) for p in found] == [(2, 200, 0.7), (9, 100, 0.5)]
    assert found[0].record is records[2]
    assert found[0].method == "linear"


def test_savings_are_against_full_fine_tuning() -> None:
    assert point(0, 250, 0.5).saving == 4.0
    assert point(0, 250, 0.5).compute_saving == 8.0


def test_fresh_runs_speak_for_their_configuration() -> None:
    (found,) = points(runs(0.9, 0.80, 0.82, 0.84))
    assert (found.number, found.record.score) == (0, 0.9)
    assert (found.score, found.deviation) == (pytest.approx(0.82), pytest.approx(0.02))
    assert (found.seeds, found.said) == (3, "82.0 ± 2.0% (3 seeds)")


def test_one_run_speaks_for_itself() -> None:
    (found,) = points(runs(0.9))
    assert (found.score, found.deviation, found.seeds, found.said) == (0.9, None, 1, "90.0%")
    (fresh,) = points(runs(0.9, 0.8))
    assert (fresh.score, fresh.deviation, fresh.seeds) == (0.8, None, 1)


def test_fresh_runs_that_did_not_finish_do_not_count() -> None:
    (found,) = points(runs(0.9, None, 0.8, 0.6))
    assert (found.score, found.seeds) == (pytest.approx(0.7), 2)
    (chosen,) = points(runs(0.9, None))
    assert (chosen.score, chosen.seeds) == (0.9, 1)
    (left,) = points(runs(None, 0.7))
    assert (left.number, left.score) == (1, 0.7)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_a_point_is_the_mean_over_its_fresh_runs(accuracies: list[float]) -> None:
    (found,) = points(runs(1.0, *accuracies))
    assert found.score == pytest.approx(mean(accuracies))
    assert found.deviation == pytest.approx(stdev(accuracies))


def test_the_front_is_made_of_means() -> None:
    lucky, honest = runs(0.9, 0.5, 0.5), {7: record(200, 0.6)}
    ahead = front(points(lucky | honest))
    assert [(p.number, p.score) for p in ahead] == [(0, 0.5), (7, 0.6)]
    assert numbers(front(points({0: lucky[0]} | honest))) == [0]
