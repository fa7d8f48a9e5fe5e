"""What a training is judged by, and which way of it is better.

Whatever compares trainings (a front, a search, a rung) compares *scores*: from 0 to 1, and higher is better. What is
recorded and said is the quality's own number: an accuracy, which is its own score; or a perplexity, whose score is its
reciprocal, the probability that the model gives to the right token (the geometric mean over tokens). The two order
trainings alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev


@dataclass(frozen=True)
class Quality:
    """A measure of quality.

    Attributes:
        name: as it stands in records, tables and on axes.
        brief: what is measured, in words.
        higher: whether more of it is better.
        scale, unit: what its number is multiplied by to be said, and what stands behind it then.
        points: what a difference of two is said in.
        decimals: of a number that is said.
        judges: what it is counted on: images or sequences.
        sized: the unit of their size.
    """

    name: str
    brief: str
    higher: bool
    scale: float
    unit: str
    points: str
    decimals: int
    judges: str
    sized: str

    @property
    def column(self) -> str:
        """The head of a column: ``accuracy (%)``."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def size(self, size: int) -> str:
        """``224 px``, or ``128 tokens``."""
        return f"{size} {self.sized}"

    @property
    def better(self) -> str:
        """Which way is better, in a word."""
        return "higher" if self.higher else "lower"

    def value(self, score: float) -> float:
        """The number that is recorded: an accuracy in [0, 1], a perplexity of at least 1."""
        return score if self.higher else 1 / score if score else math.inf

    def score(self, value: float) -> float:
        """The score of a recorded number."""
        return value if self.higher else 1 / value

    def number(self, score: float) -> float:
        """The number that is said and drawn: percent, or a perplexity."""
        return self.scale * self.value(score)

    def mean(self, scores: Sequence[float]) -> float:
        """The score of the mean of recorded numbers."""
        return self.score(mean([self.value(score) for score in scores]))

    def deviation(self, scores: Sequence[float]) -> float | None:
        """The sample standard deviation of recorded numbers; None of fewer than two."""
        return stdev([self.value(score) for score in scores]) if len(scores) > 1 else None

    def best(self, values: Sequence[float]) -> float:
        """The best of recorded numbers."""
        return max(values) if self.higher else min(values)

    def bare(self, score: float, deviation: float | None = None, decimals: int | None = None) -> str:
        """``81.9``, or ``81.9 ± 0.3``: without a unit. The deviation is of recorded numbers."""
        digits = self.decimals if decimals is None else decimals
        spread = "" if deviation is None else f" ± {self.scale * deviation:.{digits}f}"
        return f"{self.number(score):.{digits}f}{spread}"

    def text(self, score: float, deviation: float | None = None, decimals: int | None = None) -> str:
        """``81.9%``, or ``4.21``."""
        return self.bare(score, deviation, decimals) + self.unit

    def difference(self, difference: float) -> str:
        """``+1.5``: of two recorded numbers, as said."""
        return f"{self.scale * difference:+.{self.decimals}f}"

    def standard_error(
        self, score: float, count: int, deviation: float | None = None, seeds: int = 1
    ) -> float:
        """Of a score: on so many images, of which it is a share (a perplexity alone does not tell how far that of other
        text may be: nothing), and over seeds whose recorded numbers deviate so far."""
        share = score * (1 - score) / count if self.higher and count else 0.0
        slope = 1 if self.higher else score**2  # a score's, along its recorded number
        return math.sqrt(share + (slope * (deviation or 0.0)) ** 2 / seeds)

    def error(self, score: float, error: float) -> str:
        """``±0.8 points``: a standard error of a score, as said."""
        return f"±{self.slip(score, error):.{self.decimals}f} {self.points}".rstrip()

    def slip(self, score: float, error: float) -> float:
        """A standard error of a score in the number that is said."""
        return self.scale * error * (1 if self.higher else self.value(score) ** 2)


ACCURACY = Quality("accuracy", "top-1", True, 100, "%", "points", 1, "image", "px")
"""The share of images whose class is right, in [0, 1]."""

PIXEL_ACCURACY = Quality("pixel accuracy", "top-1 of each pixel", True, 100, "%", "points", 1, "image", "px")
"""The share of pixels whose class is right."""

PERPLEXITY = Quality("perplexity", "perplexity a token", False, 1, "", "", 3, "sequence", "tokens")
"""The exponential of the mean cross entropy of each next token, in nats; chance is the vocabulary, certainty 1."""

QUALITIES = {quality.name: quality for quality in (ACCURACY, PIXEL_ACCURACY, PERPLEXITY)}
