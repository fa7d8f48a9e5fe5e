"""Two orders of the same configurations: as a study said, and as they come out at the target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

import numpy as np
from scipy.stats import kendalltau, spearmanr

from bsr_explorer.report.front import Point
from bsr_explorer.store.records import Record
from bsr_explorer.store.trials import validation_images


@dataclass(frozen=True)
class Reached:
    """A configuration with the accuracy that it reached.

    Attributes:
        point: what the study said.
        accuracies: in [0, 1], one a seed.
        images: validation images of each.
    """

    point: Point
    accuracies: tuple[float, ...]
    images: int

    @property
    def accuracy(self) -> float:
        """Mean over the seeds, in [0, 1]."""
        return mean(self.accuracies)

    @property
    def standard_error(self) -> float:
        """Of the accuracy: of so many validation images, and of so many seeds."""
        seeds = len(self.accuracies)
        spread = stdev(self.accuracies) if seeds > 1 else 0.0
        binomial = self.accuracy * (1 - self.accuracy) / self.images if self.images else 0.0
        return math.sqrt(binomial + spread**2 / seeds)


@dataclass(frozen=True)
class Orders:
    """What was confirmed, least memory first.

    Attributes:
        recommended: number of the trial that the study recommends.
    """

    reached: tuple[Reached, ...]
    recommended: int

    @classmethod
    def of(cls, points: Sequence[Point], records: Iterable[Record], recommended: int) -> Orders:
        """The configurations of which a run has finished."""
        runs: dict[str, list[Record]] = {}
        for record in records:
            if record.status == "finished" and record.accuracy is not None:
                runs.setdefault(record.key, []).append(record)
        found = [
            Reached(
                point,
                tuple(record.accuracy or 0.0 for record in runs[point.record.key]),
                validation_images(runs[point.record.key][0]),
            )
            for point in points
            if point.record.key in runs
        ]
        return cls(tuple(found), recommended)

    @cached_property
    def spearman(self) -> float | None:
        """Rank correlation of the accuracies said and reached; None of fewer than 3, or of all alike."""
        return self._correlation(spearmanr)

    @cached_property
    def kendall(self) -> float | None:
        """The same by pairs: those in the same order less those in the other, of all."""
        return self._correlation(kendalltau)

    def _correlation(self, how: object) -> float | None:
        said = [each.point.accuracy for each in self.reached]
        got = [each.accuracy for each in self.reached]
        if len(said) < 3 or len(set(said)) == 1 or len(set(got)) == 1:
            return None
        assert callable(how)
        return float(np.round(how(said, got).statistic, 6))

    @property
    def taken(self) -> Reached | None:
        """The recommended configuration, if a run of it has finished."""
        return next((each for each in self.reached if each.point.number == self.recommended), None)

    @property
    def best(self) -> Reached | None:
        """The best of what takes no more memory than the recommended one."""
        if self.taken is None:
            return None
        within = [each for each in self.reached if each.point.bytes <= self.taken.point.bytes]
        return max(within, key=lambda each: each.accuracy)

    def ranks(self) -> list[tuple[int, int]]:
        """The ranks, 1 being the best, that each configuration has by what was said and by what was reached."""
        said = _ranks([each.point.accuracy for each in self.reached])
        return list(zip(said, _ranks([each.accuracy for each in self.reached]), strict=True))


def _ranks(values: Sequence[float]) -> list[int]:
    """1 for the largest; equals share the better rank."""
    return [1 + sum(other > value for other in values) for value in values]
