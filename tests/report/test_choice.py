"""What is recommended of a front, and what is chosen by words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.errors import UserError
from bsr_explorer.report.choice import knee, reaching, recommend, under
from bsr_explorer.report.front import Point, front, points
from tests.report.points import made, point, record, runs


def test_the_least_memory_within_one_standard_error_is_recommended() -> None:
    # Best 0.8 on 100 images: one standard error is 0.04.
    chosen = recommend(made((100, 0.70), (200, 0.77), (300, 0.79), (400, 0.80)))
    assert chosen.point.number == 1
    assert chosen.reason == (
        "77.0% is within one standard error (±4.0 points on 100 validation images) of the best, 80.0%, "
        "and takes 50% less memory (0.00020 against 0.00040 MB)"
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


def test_where_a_split_says_no_images_the_best_is_taken() -> None:
    assert recommend([Point(0, record(1, 0.5, split=""), 0.5, 1)]).point.number == 0


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
    best = max(p.score for p in ahead)
    chosen = recommend(ahead).point
    within = [p for p in ahead if p.score >= best - math.sqrt(best * (1 - best) / images)]
    assert chosen == min(within, key=lambda p: p.bytes)


def test_a_mean_is_known_as_well_as_its_images_and_its_seeds_allow() -> None:
    (many,) = points(runs(0.9, 0.7, 0.8, 0.9))
    assert many.standard_error == pytest.approx(math.sqrt(0.8 * 0.2 / 100 + 0.1**2 / 3))
    less = point(9, 60, 0.73)
    assert recommend([less, point(1, 100, 0.8)]).point.number == 1
    chosen = recommend([less, many])
    assert chosen.point is less
    assert "(±7.0 points on 100 validation images and 3 seeds) of the best, 80.0 ± 10.0% (3 seeds)" in (
        chosen.reason
    )


def test_the_knee_is_where_memory_begins_to_buy_less() -> None:
    # By the logarithm, 200 is halfway from 100 to 400: at 0.8 it is 0.25 above the chord.
    ahead = made((100, 0.5), (200, 0.8), (300, 0.85), (400, 0.9))
    chosen = knee(ahead)
    assert chosen.point.number == 1
    assert chosen.reason == (
        "the knee: farthest above the line from the front's least memory, 50.0% at 0.00010 MB, to its best accuracy, "
        "90.0% at 0.00040 MB, by the logarithm of memory"
    )


@given(st.floats(0.01, 100), st.integers(1, 50))
def test_the_knee_does_not_depend_on_units(gain: float, scale: int) -> None:
    pairs = [(100, 0.10), (140, 0.20), (230, 0.34), (310, 0.36), (800, 0.40)]
    ahead = made(*((size * scale, accuracy * gain / 100) for size, accuracy in pairs))
    assert knee(ahead).point.number == 2


@pytest.mark.parametrize(
    "pairs",
    [
        [(100, 0.5)],
        [(100, 0.5), (400, 0.9)],
        [(100, 0.89), (400, 0.9)],
        [(100, 0.5), (200, 0.7), (400, 0.9)],  # on the chord
        [(100, 0.5), (200, 0.6), (400, 0.9)],  # below it
    ],
)
def test_a_front_without_a_knee_has_a_recommendation(pairs: list[tuple[int, float]]) -> None:
    ahead = made(*pairs)
    chosen = knee(ahead)
    assert chosen.point == recommend(ahead).point
    assert chosen.reason == f"the front has no knee; recommended instead: {recommend(ahead).reason}"


def test_the_best_under_a_limit() -> None:
    ahead = made((100, 0.5), (200, 0.7), (400, 0.9))
    assert [under(ahead, limit).point.number for limit in (100, 199, 200, 399, 400, 9999)] == [
        *(0, 0, 1, 1, 2, 2)
    ]
    assert "the next on the front, 90.0%, takes 0.00040 MB (0.00038 MiB)" in under(ahead, 200).reason
    assert under(ahead, 9999).reason.endswith("nothing that was trained is better")
    with pytest.raises(UserError, match=r"^nothing that .* the nearest is trial 0, linear, with 0\.00010 MB"):
        under(ahead, 99)


def test_the_least_memory_that_reaches_an_accuracy() -> None:
    ahead = made((100, 0.5), (200, 0.7), (400, 0.9))
    assert [reaching(ahead, least).point.number for least in (0.0, 0.5, 0.51, 0.7, 0.9)] == [0, 0, 1, 1, 2]
    assert reaching(ahead, 0.6).reason == (
        "the least memory that reaches 60.0%; the best, 90.0%, takes 0.00040 MB (0.00038 MiB)"
    )
    assert reaching(ahead, 0.9).reason.endswith("nothing that was trained is better")
    with pytest.raises(UserError, match=r"^nothing .* 95\.0%; the nearest is trial 2, linear"):
        reaching(ahead, 0.95)
