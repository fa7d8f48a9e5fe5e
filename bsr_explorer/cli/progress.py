"""What is shown while a search runs: a line a trial, a bar, and the time left."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn

from bsr_explorer.cli.console import err, format_seconds
from bsr_explorer.units import in_mb

if TYPE_CHECKING:
    from bsr_explorer.search.plan import Clock
    from bsr_explorer.search.search import Search
    from bsr_explorer.search.space import Candidate, Space
    from bsr_explorer.store.records import Record


@contextmanager
def watching(searching: Search, clock: Clock) -> Iterator[Progressing]:
    """Show a search's progress on the error console, and heed Ctrl-C; yields what the search reports to."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]}"))
    before = signal.getsignal(signal.SIGINT)
    with Progress(*columns, console=err, transient=True) as progress:
        watcher = Progressing(progress, searching, clock)
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, watcher.interrupt)
        try:
            yield watcher
        finally:
            signal.signal(signal.SIGINT, before)


class Progressing:
    """Prints a line a trial, and keeps the bar and the time left."""

    def __init__(self, progress: Progress, searching: Search, clock: Clock) -> None:
        self.progress, self.searching, self.clock = progress, searching, clock
        self.bar = progress.add_task("", total=1.0, left="")
        self.finished, self.share = 0, 0.0
        self.began = time.monotonic()
        self.candidate: Candidate | None = None
        self.interrupted = False

    def interrupt(self, number: int, frame: object) -> None:
        """Ctrl-C. What is raised while Python frees memory is lost, so the next step raises it again."""
        self.interrupted = True
        raise KeyboardInterrupt

    def trial_starts(self, number: int, candidate: Candidate, finished: int) -> None:
        """Show which trial runs."""
        self.candidate, self.finished, self.share, self.began = candidate, finished, 0.0, time.monotonic()
        trials = self.searching.study.trials
        self.progress.update(
            self.bar, description=f"trial {finished + 1} of {trials}: {_brief(str(candidate.config.how))}"
        )
        self._show()

    def step(self, done: int, total: int, loss: float) -> None:
        """Advance the bar."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.share = done / total
        self._show()

    def trial_ends(self, number: int, record: Record) -> None:
        """Say how the trial ended."""
        assert self.candidate is not None
        seconds = time.monotonic() - self.began
        self.clock.learn(self.candidate.config, seconds)
        self.finished += record.status == "finished"
        self.share = 0.0
        self._show()
        result = (
            f"{100 * record.accuracy:.1f}%"
            if record.accuracy is not None
            else f"{record.status}: {record.reason}"
        )
        self.progress.console.print(
            f"trial {number}: {result}, {in_mb(self.candidate.counted_bytes):,.0f} MB, {format_seconds(seconds)}, "
            f"{record.method}  [about {format_seconds(self._left())} left]",
            markup=False,
        )

    def _left(self) -> float:
        assert self.candidate is not None
        study, space = self.searching.study, self.searching.space
        now = self.clock.expected(self.candidate.config) * (1 - self.share) if self.share else 0.0
        to_come = study.trials - self.finished - (self.share > 0)
        left = now + mean_expected(space, self.clock) * max(0, to_come)
        spent = time.monotonic() - self.searching.started
        return max(0.0, left if study.time_limit is None else min(left, study.time_limit - spent))

    def _show(self) -> None:
        done = (self.finished + self.share) / self.searching.study.trials
        self.progress.update(self.bar, completed=done, left=f"about {format_seconds(self._left())} left")


def mean_expected(space: Space, clock: Clock) -> float:
    """Seconds of a trial, as the mean over the known configurations that fit."""
    known = [c for c in space.known if space.fits(c)] or [space.smallest]
    return sum(clock.expected(c.config) for c in known) / len(known)


def _brief(expression: str) -> str:
    return expression if len(expression) <= 60 else expression[:59] + "…"
