"""A method of a comparison: what is predicted of it, and what its runs and its steps came to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median, stdev

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
    def accuracies(self) -> list[float]:
        """Of the runs that finished, in [0, 1]."""
        return [run.accuracy for run in self.runs if run.status == "finished" and run.accuracy is not None]

    @property
    def accuracy(self) -> float | None:
        """The mean over the seeds."""
        return mean(self.accuracies) if self.accuracies else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds, of two at least."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def by_task(self) -> dict[str, float]:
        """The same mean of each task, by its name; nothing, if there is one task."""
        runs = [run.accuracy_by_task for run in self.runs if run.status == "finished"]
        return {task: mean(run[task] for run in runs) for task in (runs[0] if runs else {})}

    @property
    def status(self) -> str:
        """``finished`` if any run is, else what became of them."""
        if not self.entry.fits:
            return "does not fit"
        if self.accuracies:
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
