"""The front of a study, from its records alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsr_explorer import pareto
from bsr_explorer.errors import UserError
from bsr_explorer.quality import Quality
from bsr_explorer.store.records import Record
from bsr_explorer.store.trials import images_that_count, read_trials, replica
from bsr_explorer.units import format_number


@dataclass(frozen=True)
class Point:
    """A configuration that was trained to its end: its score and its memory by the study's accounting.

    Attributes:
        number: of the trial that the search chose.
        record: of that trial.
        score: in [0, 1], higher is better (see ``quality``): that of the mean over fresh seeds where there are any,
            else that trial's own. (The front is made of the luckiest trials, so that their own are biased upwards.)
        bytes: memory.
        deviation: sample standard deviation of accuracies (or perplexities) over the fresh seeds, of two at least.
        seeds: how many runs it is the mean of.
    """

    number: int
    record: Record
    score: float
    bytes: int
    deviation: float | None = None
    seeds: int = 1

    @property
    def method(self) -> str:
        """The method's expression."""
        return self.record.method

    @property
    def said(self) -> str:
        """``81.9%``, or ``81.9 ± 0.3% (3 seeds)``."""
        seeds = "" if self.deviation is None else f" ({self.seeds} seeds)"
        return self.quality.text(self.score, self.deviation) + seeds

    @property
    def quality(self) -> Quality:
        """What it was judged by."""
        return self.record.judged

    @property
    def value(self) -> float:
        """The accuracy in [0, 1], or the perplexity."""
        return self.quality.value(self.score)

    @property
    def drawn(self) -> float:
        """The same as it is said and drawn: in percent, or as it is."""
        return self.quality.number(self.score)

    @property
    def spread(self) -> float:
        """The deviation as it is drawn; 0 of one run."""
        return self.quality.scale * (self.deviation or 0.0)

    @property
    def standard_error(self) -> float:
        """Of the score: of so many validation images, and of so many seeds."""
        images = images_that_count(self.record)
        return self.quality.standard_error(self.score, images, self.deviation, self.seeds)

    @property
    def full(self) -> dict[str, Any]:
        """The prediction for full fine-tuning of the same model and batch."""
        full: dict[str, Any] = self.record.study["full"]
        return full

    @property
    def saving(self) -> float:
        """Memory of full fine-tuning over this one's."""
        return float(self.full["counted_bytes"]) / self.bytes

    @property
    def compute_saving(self) -> float:
        """Training FLOPs of full fine-tuning over this one's."""
        return float(self.full["train_flops"]) / float(self.record.predicted["train_flops"])


def points(records: dict[int, Record]) -> list[Point]:
    """The configurations of a study that were trained to their end, by their first trial."""
    by_key: dict[str, dict[int, Record]] = {}
    for number, record in sorted(records.items()):
        if record.status == "finished" and record.score is not None:
            by_key.setdefault(record.key, {})[number] = record
    return sorted(map(_point, by_key.values()), key=lambda point: point.number)


def _point(runs: dict[int, Record]) -> Point:
    """The point of the finished runs of one configuration."""
    number = min(runs, key=lambda number: (replica(runs[number]), number))
    record = runs[number]
    fresh = [run.score for run in runs.values() if replica(run) and run.score is not None]
    scores = fresh or [record.score or 0.0]
    return Point(
        number,
        record,
        record.judged.mean(scores),
        int(record.study["counted_bytes"]),
        record.judged.deviation(scores),
        len(scores),
    )


def front(candidates: Iterable[Point]) -> list[Point]:
    """The points that no other beats in memory without losing quality, least memory first.

    Of points equal in both, the first one stands.
    """
    known = sorted(candidates, key=lambda point: point.number)
    ahead = pareto.front([point.bytes for point in known], [-point.score for point in known])
    return [known[place] for place in ahead]


def covered(points: Iterable[Point], reference: int) -> float:
    """The hypervolume of points up to a reference in bytes: by the scores of what every table gives them."""
    known = list(points)
    return pareto.hypervolume([point.bytes for point in known], [point.score for point in known], reference)


def covered_text(volume: float) -> str:
    """``hypervolume 0.7481``, and what it is."""
    return f"hypervolume {format_number(volume, 4)}: the area under the front up to the budget, of 1"


def point_of(folder: Path, number: int, record: Record) -> Point:
    """The point of a trial's configuration.

    Raises:
        UserError: it was not trained to its end.
    """
    for point in points(read_trials(folder)):
        if point.record.key == record.key:
            return point
    raise UserError(
        f"TRIAL: {number} has no {record.judged.name}, for it is {record.status}; `bsr-explore show` says why, and "
        "`bsr-explore train --select` trains it all the same"
    )


def study_front(folder: Path) -> list[Point]:
    """The front of a study's folder.

    Raises:
        UserError: no study there, or no trial of it that finished.
    """
    ahead = front(points(read_trials(folder)))
    if not ahead:
        raise UserError(f"STUDY: {folder} has no finished trial yet; run its search first")
    return ahead
