"""Rungs: only what others with no more memory beat beyond noise stops, and never an end of the front."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.search.rungs import Seen, bars

accuracies = st.floats(0, 1)
seen = st.lists(
    st.builds(Seen, st.integers(1, 50), st.dictionaries(st.integers(1, 3), accuracies, max_size=3)),
    max_size=12,
)


def test_a_trial_that_two_with_less_memory_beat_beyond_noise_stops() -> None:
    others = [Seen(10, {1: 0.8}), Seen(20, {1: 0.78}), Seen(90, {1: 0.9})]
    asked = bars([1], 50, others, images=400)[1]
    assert asked == pytest.approx(0.78 - 2 * math.sqrt(2 * 0.78 * 0.22 / 400))
    assert bars([1], 50, others[1:], images=400)[1] == -math.inf  # beaten by one alone
    assert bars([2], 50, others, images=400)[2] == -math.inf  # nobody was there yet


def test_more_images_mean_less_noise() -> None:
    others = [Seen(10, {1: 0.8}), Seen(20, {1: 0.78}), Seen(90, {1: 0.9})]
    few, many = (bars([1], 50, others, images)[1] for images in (50, 5000))
    assert few < many < 0.78


@given(seen, st.integers(1, 50))
def test_the_ends_of_memory_go_on(others: list[Seen], size: int) -> None:
    sizes = [other.bytes for other in others]
    for extreme in (min(sizes, default=size), max(sizes, default=size), 0, 51):
        assert set(bars([1, 2], extreme, others, 300).values()) == {-math.inf}


@given(seen, st.integers(1, 50), st.integers(1, 10_000))
def test_only_trials_of_no_more_memory_count(others: list[Seen], size: int, images: int) -> None:
    heavier = [Seen(51, {1: 1.0, 2: 1.0, 3: 1.0})] * 3
    lighter = [Seen(0, {})]  # so that nothing here is an end
    assert bars([1, 2, 3], size, [*others, *heavier, *lighter], images) == bars(
        [1, 2, 3], size, [*(o for o in others if o.bytes <= size), *heavier, *lighter], images
    )


@given(seen, st.integers(1, 50), st.integers(1, 10_000))
def test_what_equals_the_second_best_never_stops(others: list[Seen], size: int, images: int) -> None:
    for rung, bar in bars([1, 2, 3], size, others, images).items():
        peers = sorted(
            (o.history[rung] for o in others if o.bytes <= size and rung in o.history), reverse=True
        )
        assert bar == -math.inf or bar <= peers[1]
