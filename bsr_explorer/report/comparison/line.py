"""A method of a comparison: what is predicted of it, and what its runs and its steps came to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median

from bsr_explorer.quality import ACCURACY, Quality
from bsr_explorer.store.comparison_folder import Comparison, Entry, StepTimes
from bsr_explorer.store.records import Record

NOT_RUN = "not run here"
"""What stands in the place of a result that there is none of."""


@dataclass(frozen=True)
class Line:
    """A method: what is predicted of it, and what its runs and its steps came to.

    Attributes:
        runs: records, by seed.
        seconds: of a step, a round each.
        untimed: why its steps could not be timed, or nothing.
    """

    entry: Entry
    runs: list[Record]
    seconds: list[float]
    untimed: str = ""

    @cached_property
    def scores(self) -> list[float]:
        """Of the runs that finished, in [0, 1]; see ``quality``."""
        return [run.score for run in self.runs if run.status == "finished" and run.score is not None]

    @property
    def quality(self) -> Quality:
        """What the runs were judged by."""
        return self.runs[0].judged if self.runs else ACCURACY

    @property
    def score(self) -> float | None:
        """That of the mean over the seeds."""
        return self.quality.mean(self.scores) if self.scores else None

    @property
    def value(self) -> float | None:
        """The mean accuracy, in [0, 1], or perplexity."""
        return None if self.score is None else self.quality.value(self.score)

    @property
    def drawn(self) -> float | None:
        """The same as it is said and drawn: in percent, or as it is."""
        return None if self.score is None else self.quality.number(self.score)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation of accuracies, or perplexities, over the seeds, of two at least."""
        return self.quality.deviation(self.scores)

    @property
    def by_task(self) -> dict[str, float]:
        """The mean accuracy of each task, by its name; nothing, if there is one task."""
        runs = [run.accuracy_by_task for run in self.runs if run.status == "finished"]
        return {task: fmean(run[task] for run in runs) for task in (runs[0] if runs else {})}

    @property
    def status(self) -> str:
        """``finished`` if any run is, else what became of them."""
        if not self.entry.fits:
            return "does not fit"
        if self.scores:
            return "finished"
        return self.runs[-1].status if self.runs else NOT_RUN

    @property
    def step_seconds(self) -> float | None:
        """Median over the rounds."""
        return median(self.seconds) if self.seconds else None

    def measured(self, kind: str) -> tuple[int, int] | None:
        """Bytes predicted and measured at the size trained, of the run that was furthest from its prediction.

        Args:
            kind: ``peak`` or ``saved``.
        """
        found = [
            (run.measured[f"predicted_{kind}_bytes"], run.measured[f"{kind}_bytes"])
            for run in self.runs
            if run.measured and f"predicted_{kind}_bytes" in run.measured
        ]
        return max(found, key=lambda pair: abs(pair[1] - pair[0]), default=None)


def lines_of(comparison: Comparison, records: dict[int, Record], times: StepTimes) -> list[Line]:
    """A line a method, in the comparison's order; runs of other methods or further seeds are left out."""
    runs = sorted(records.values(), key=lambda record: record.seed)
    return [
        Line(
            entry,
            [run for run in runs if run.key == entry.key and run.seed < comparison.seeds and entry.fits],
            times.seconds.get(entry.key, []) if entry.fits else [],
            times.failed.get(entry.key, "") if entry.fits else "",
        )
        for entry in comparison.entries
    ]
