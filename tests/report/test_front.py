"""The front and the recommendation, on points made by hand and against the definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.report.front import Point, front, points, recommend, validation_images
from bsr_explorer.store.records import Record


def record(size: int, accuracy: float | None, images: int = 100, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "status": "finished",
        "config": {"method": "linear"},
        "key": f"{size}",
        "fidelity": {},
        "data": "digits",
        "seed": 0,
        "split": f"train 20, validation {images}, test 360",
        "accuracy": accuracy,
        "predicted": {"train_flops": 50},
        "study": {"counted_bytes": size, "full": {"counted_bytes": 1000, "train_flops": 400}},
    }
    return Record(**{**values, **changes})


def point(number: int, size: int, accuracy: float, images: int = 100) -> Point:
    return Point(number, record(size, accuracy, images), accuracy, size)


def made(*pairs: tuple[int, float]) -> list[Point]:
    return [point(number, *pair) for number, pair in enumerate(pairs)]


def numbers(ahead: list[Point]) -> list[int]:
    return [p.number for p in ahead]


# --- the front ------------------------------------------------------------------------------------------


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
            and other.accuracy >= mine.accuracy
            and ((other.bytes, other.accuracy) != (mine.bytes, mine.accuracy) or other.number < mine.number)
            for other in every
        )

    expected = sorted((p for p in every if not beaten(p)), key=lambda p: p.bytes)
    assert front(every) == expected


# --- points ---------------------------------------------------------------------------------------------


def test_points_are_the_finished_trials_in_order() -> None:
    records = {
        9: record(100, 0.5),
        2: record(200, 0.7),
        4: record(300, None, status="diverged"),
        5: record(300, None, status="failed"),
        6: record(300, 0.3, status="failed"),
    }
    found = points(records)
    assert [(p.number, p.bytes, p.accuracy) for p in found] == [(2, 200, 0.7), (9, 100, 0.5)]
    assert found[0].record is records[2]
    assert found[0].method == "linear"


def test_savings_are_against_full_fine_tuning() -> None:
    assert point(0, 250, 0.5).saving == 4.0
    assert point(0, 250, 0.5).compute_saving == 8.0


# --- the recommendation ---------------------------------------------------------------------------------


def test_the_least_memory_within_one_standard_error_is_recommended() -> None:
    # Best 0.8 on 100 images: one standard error is 0.04.
    chosen = recommend(made((100, 0.70), (200, 0.77), (300, 0.79), (400, 0.80)))
    assert chosen.point.number == 1
    assert chosen.reason == (
        "77.0% is within one standard error (±4.0 points on 100 validation images) of the best, 80.0%, "
        "and takes 50% less memory (0 against 0 MB)"
    )


def test_the_best_is_recommended_where_nothing_comes_close() -> None:
    chosen = recommend(made((100, 0.70), (200, 0.759), (400, 0.80)))
    assert chosen.point.number == 2
    assert chosen.reason == "the best accuracy; none with less memory comes within ±4.0 points"


def test_the_edge_of_the_standard_error_is_within() -> None:
    error = math.sqrt(0.8 * 0.2 / 100)
    assert recommend(made((100, 0.8 - error), (400, 0.8))).point.number == 0


def test_more_images_tell_more_apart() -> None:
    def chosen(images: int) -> int:
        return recommend([point(0, 100, 0.77, images), point(1, 400, 0.80, images)]).point.number

    assert [chosen(100), chosen(10_000)] == [0, 1]


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_an_accuracy_without_error_has_nothing_within(accuracy: float) -> None:
    assert recommend(made((100, accuracy))).point.number == 0
    assert recommend(made((100, 0.99), (200, 1.0))).point.number == 1


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(0, 20).map(lambda n: n / 20)), min_size=1, max_size=20
    ),
    st.integers(1, 2000),
)
def test_what_is_recommended_is_on_the_front_and_not_told_from_the_best(
    pairs: list[tuple[int, float]], images: int
) -> None:
    ahead = front(point(number, *pair, images) for number, pair in enumerate(pairs))
    best = max(p.accuracy for p in ahead)
    chosen = recommend(ahead).point
    within = [p for p in ahead if p.accuracy >= best - math.sqrt(best * (1 - best) / images)]
    assert chosen == min(within, key=lambda p: p.bytes)


def test_validation_images_are_read_off_the_split() -> None:
    assert validation_images(record(1, 0.5, 359)) == 359
    assert validation_images(record(1, 0.5, split="")) == 0
    assert recommend([Point(0, record(1, 0.5, split=""), 0.5, 1)]).point.number == 0


def test_the_split_of_a_real_record_is_understood(finished_once: Any) -> None:
    from bsr_explorer.store.records import read_records

    assert {validation_images(r) for r in read_records(finished_once).values()} == {20}
