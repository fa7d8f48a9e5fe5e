"""What a training is judged by, and which way is better."""

from __future__ import annotations

import math

import pytest

from bsr_explorer.quality import ACCURACY, PERPLEXITY, QUALITIES, Quality


@pytest.mark.parametrize("quality", QUALITIES.values(), ids=str)
def test_scores_order_as_the_quality_does(quality: Quality) -> None:
    values = [0.2, 0.5, 0.9] if quality.higher else [9.0, 4.0, 1.5]
    scores = [quality.score(value) for value in values]
    assert scores == sorted(scores) and all(0 <= score <= 1 for score in scores)
    assert [quality.value(score) for score in scores] == pytest.approx(values)
    assert quality.best(values) == values[-1]


def test_a_score_is_the_probability_of_the_right_token() -> None:
    nats = [1.0, 2.0]
    assert PERPLEXITY.score(math.exp(sum(nats) / 2)) == pytest.approx(math.sqrt(math.exp(-1) * math.exp(-2)))


def test_how_it_is_said() -> None:
    assert (ACCURACY.text(0.819, 0.003), ACCURACY.column) == ("81.9 ± 0.3%", "accuracy (%)")
    assert (PERPLEXITY.text(0.25, 0.0123), PERPLEXITY.column) == ("4.000 ± 0.012", "perplexity")
    assert (ACCURACY.difference(0.015), PERPLEXITY.difference(-0.5)) == ("+1.5", "-0.500")


def test_a_mean_is_of_what_is_said() -> None:
    assert PERPLEXITY.value(PERPLEXITY.mean([1 / 4, 1 / 6])) == pytest.approx(5.0)
    assert PERPLEXITY.deviation([1 / 4, 1 / 6]) == pytest.approx(math.sqrt(2))
    assert ACCURACY.mean([0.4, 0.6]) == 0.5 and ACCURACY.deviation([0.5]) is None


def test_a_standard_error_is_of_images_and_seeds() -> None:
    assert ACCURACY.standard_error(0.5, 100) == pytest.approx(0.05)
    assert ACCURACY.standard_error(0.5, 0, 0.1, 4) == pytest.approx(0.05)
    # A perplexity of 4 ± 0.2 of 4 seeds, in scores and back.
    assert PERPLEXITY.standard_error(0.25, 100, 0.2, 4) == pytest.approx(0.1 * 0.25**2)
    assert PERPLEXITY.error(0.25, 0.1 * 0.25**2) == "±0.100"
    assert ACCURACY.error(0.5, 0.05) == "±5.0 points"
