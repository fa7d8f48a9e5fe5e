"""Two orders of the same configurations: as a study said, and as they come out at the target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import kendalltau, spearmanr

from bsr_explorer.quality import Quality
from bsr_explorer.report.front import Point
from bsr_explorer.store.records import Record
from bsr_explorer.store.trials import validation_images


@dataclass(frozen=True)
class Reached:
    """A configuration with the score that it reached (see ``quality``).

    Attributes:
        point: what the study said.
        scores: in [0, 1], one a seed.
        images: validation images of each.
    """

    point: Point
    scores: tuple[float, ...]
    images: int

    @property
    def quality(self) -> Quality:
        """What it was judged by."""
        return self.point.quality

    @property
    def score(self) -> float:
        """That of the mean over the seeds."""
        return self.quality.mean(self.scores)

    @property
    def known(self) -> bool:
        """Whether its standard error is: one training does not say how sure a perplexity is."""
        return self.quality.higher or len(self.scores) > 1

    @property
    def standard_error(self) -> float:
        """Of the score: of so many validation images, and of so many seeds."""
        deviation = self.quality.deviation(self.scores)
        return self.quality.standard_error(self.score, self.images, deviation, len(self.scores))


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
            if record.status == "finished" and record.score is not None:
                runs.setdefault(record.key, []).append(record)
        found = [
            Reached(
                point,
                tuple(record.score or 0.0 for record in runs[point.record.key]),
                validation_images(runs[point.record.key][0]),
            )
            for point in points
            if point.record.key in runs
        ]
        return cls(tuple(found), recommended)

    @cached_property
    def spearman(self) -> float | None:
        """Rank correlation of the scores said and reached; None of fewer than 3, or of all alike."""
        return self._correlation(spearmanr)

    @cached_property
    def kendall(self) -> float | None:
        """The same by pairs: those in the same order less those in the other, of all."""
        return self._correlation(kendalltau)

    def _correlation(self, how: object) -> float | None:
        said = [each.point.score for each in self.reached]
        got = [each.score for each in self.reached]
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
        return max(within, key=lambda each: each.score)

    def ranks(self) -> list[tuple[int, int]]:
        """The ranks, 1 being the best, that each configuration has by what was said and by what was reached."""
        said = _ranks([each.point.score for each in self.reached])
        return list(zip(said, _ranks([each.score for each in self.reached]), strict=True))


def _ranks(values: Sequence[float]) -> list[int]:
    """1 for the largest; equals share the better rank."""
    return [1 + sum(other > value for other in values) for value in values]
