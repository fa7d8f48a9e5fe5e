"""The front and the recommendation, on points made by hand and against the definition."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.errors import UserError
from bsr_explorer.report.front import (
    Point,
    front,
    hypervolume,
    knee,
    points,
    reaching,
    read_trials,
    recommend,
    under,
    validation_images,
)
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
        3: record(300, 0.9, status="stopped"),
        5: record(300, None, status="failed"),
        7: record(300, None, status="out_of_memory"),
        6: record(300, 0.3, status="failed"),
    }
    found = points(records)
    assert [(p.number, p.bytes, p.accuracy) for p in found] == [(2, 200, 0.7), (9, 100, 0.5)]
    assert found[0].record is records[2]
    assert found[0].method == "linear"


def test_savings_are_against_full_fine_tuning() -> None:
    assert point(0, 250, 0.5).saving == 4.0
    assert point(0, 250, 0.5).compute_saving == 8.0


def runs(*accuracies: float | None, size: int = 100) -> dict[int, Record]:
    """One configuration: the trial that the search chose, and fresh runs of it."""
    return {
        number: record(
            size,
            accuracy,
            status="diverged" if accuracy is None else "finished",
            study={**record(size, 0.0).study, "replica": number},
        )
        for number, accuracy in enumerate(accuracies)
    }


def test_fresh_runs_speak_for_their_configuration() -> None:
    (found,) = points(runs(0.9, 0.80, 0.82, 0.84))
    assert (found.number, found.record.accuracy) == (0, 0.9)
    assert (found.accuracy, found.deviation) == (pytest.approx(0.82), pytest.approx(0.02))
    assert (found.seeds, found.said) == (3, "82.0 ± 2.0% (3 seeds)")


def test_one_run_speaks_for_itself() -> None:
    (found,) = points(runs(0.9))
    assert (found.accuracy, found.deviation, found.seeds, found.said) == (0.9, None, 1, "90.0%")
    (fresh,) = points(runs(0.9, 0.8))
    assert (fresh.accuracy, fresh.deviation, fresh.seeds) == (0.8, None, 1)


def test_fresh_runs_that_did_not_finish_do_not_count() -> None:
    (found,) = points(runs(0.9, None, 0.8, 0.6))
    assert (found.accuracy, found.seeds) == (pytest.approx(0.7), 2)
    (chosen,) = points(runs(0.9, None))
    assert (chosen.accuracy, chosen.seeds) == (0.9, 1)
    (left,) = points(runs(None, 0.7))
    assert (left.number, left.accuracy) == (1, 0.7)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_a_point_is_the_mean_over_its_fresh_runs(accuracies: list[float]) -> None:
    (found,) = points(runs(1.0, *accuracies))
    assert found.accuracy == pytest.approx(mean(accuracies))
    assert found.deviation == pytest.approx(stdev(accuracies))


def test_the_front_is_made_of_means() -> None:
    lucky, honest = runs(0.9, 0.5, 0.5), {7: record(200, 0.6)}
    ahead = front(points(lucky | honest))
    assert [(p.number, p.accuracy) for p in ahead] == [(0, 0.5), (7, 0.6)]
    assert numbers(front(points({0: lucky[0]} | honest))) == [0]


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"STUDY: {tmp_path} is not the folder of a study"):
        read_trials(tmp_path)


# --- the recommendation ---------------------------------------------------------------------------------


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


def test_validation_images_are_read_off_the_split() -> None:
    assert validation_images(record(1, 0.5, 359)) == 359
    assert validation_images(record(1, 0.5, split="")) == 0
    assert recommend([Point(0, record(1, 0.5, split=""), 0.5, 1)]).point.number == 0


def test_the_split_of_a_real_record_is_understood(finished_once: Any) -> None:
    from bsr_explorer.store.records import read_records

    assert {validation_images(r) for r in read_records(finished_once).values()} == {20}


# --- the hypervolume ------------------------------------------------------------------------------------

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
    ahead = front(made(*pairs))
    assert volume([(p.bytes, p.accuracy) for p in ahead]) == pytest.approx(volume(pairs))


# --- choices --------------------------------------------------------------------------------------------


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
