"""What is shown while a search or a comparison runs: a line a run, a bar, and the time left."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.progress import BarColumn, Progress, TextColumn

from bsr_explorer.cli.console import err, format_seconds
from bsr_explorer.units import in_mb

if TYPE_CHECKING:
    from bsr_explorer.comparison import Task
    from bsr_explorer.search.plan import Clock
    from bsr_explorer.search.search import Search
    from bsr_explorer.search.space import Candidate, Space
    from bsr_explorer.store.records import Record


class Heeding:
    """Shows progress in a bar, and heeds Ctrl-C."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bar = progress.add_task("", total=1.0, left="")
        self.interrupted = False

    def interrupt(self, number: int, frame: object) -> None:
        """Ctrl-C. What is raised while Python frees memory is lost, so the next step raises it again."""
        self.interrupted = True
        raise KeyboardInterrupt

    def heed(self) -> None:
        """Raise what was lost."""
        if self.interrupted:
            raise KeyboardInterrupt


W = TypeVar("W", bound=Heeding)


@contextmanager
def heeding(make: Callable[[Progress], W]) -> Iterator[W]:
    """Show a bar on the error console, and heed Ctrl-C; yields what reports go to."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]}"))
    before = signal.getsignal(signal.SIGINT)
    with Progress(*columns, console=err, transient=True) as progress:
        watcher = make(progress)
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, watcher.interrupt)
        try:
            yield watcher
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def watching(searching: Search, clock: Clock) -> Iterator[Progressing]:
    """Show a search's progress on the error console, and heed Ctrl-C; yields what the search reports to."""
    with heeding(lambda progress: Progressing(progress, searching, clock)) as watcher:
        yield watcher


@contextmanager
def watching_tasks() -> Iterator[Tasks]:
    """The same of a comparison."""
    with heeding(Tasks) as watcher:
        yield watcher


class Progressing(Heeding):
    """Prints a line a trial, and keeps the bar and the time left."""

    def __init__(self, progress: Progress, searching: Search, clock: Clock) -> None:
        super().__init__(progress)
        self.searching, self.clock = searching, clock
        self.finished, self.share = 0, 0.0
        self.began = time.monotonic()
        self.candidate: Candidate | None = None

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
        self.heed()
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
        self.progress.console.print(
            f"trial {number}: {_result(record)}, {in_mb(self.candidate.counted_bytes):,.0f} MB, "
            f"{format_seconds(seconds)}, {record.method}  [about {format_seconds(self._left())} left]",
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


class Tasks(Heeding):
    """Prints a line a run of a comparison, and keeps the bar and the time left, at the pace so far."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self.began = self.task_began = time.monotonic()
        self.done = self.total = self.count = self.place = 0
        self.task: Task | None = None

    def begins(self, tasks: Sequence[Task]) -> None:
        """Count what there is to do."""
        self.began = time.monotonic()
        self.total, self.count = sum(task.flops for task in tasks), len(tasks)

    def starts(self, task: Task) -> None:
        """Show what is done."""
        self.task, self.task_began, self.place = task, time.monotonic(), self.place + 1
        self.progress.update(self.bar, description=f"{self.place} of {self.count}: {_brief(task.what)}")
        self._show(0.0)

    def step(self, done: int, total: int, loss: float = 0.0) -> None:
        """Advance the bar."""
        self.heed()
        self._show(done / total)

    def ends(self, task: Task, record: Record | None) -> None:
        """Say how it ended."""
        self.done += task.flops
        left = self._show(0.0)
        result = "" if record is None else f"{_result(record)}, "
        seconds = format_seconds(time.monotonic() - self.task_began)
        self.progress.console.print(f"{task.what}: {result}{seconds}{left and f'  [{left}]'}", markup=False)

    def _show(self, share: float) -> str:
        """Set the bar to what is done and this share of the task; returns the time left, in words."""
        assert self.task is not None
        done = self.done + (share * self.task.flops if share else 0)
        spent = time.monotonic() - self.began
        left = f"about {format_seconds(spent * (self.total - done) / done)} left" if done else ""
        self.progress.update(self.bar, completed=done / self.total, left=left)
        return left


def mean_expected(space: Space, clock: Clock) -> float:
    """Seconds of a trial, as the mean over the known configurations that fit."""
    known = [c for c in space.known if space.fits(c)] or [space.smallest]
    return sum(clock.expected(c.config) for c in known) / len(known)


def _result(record: Record) -> str:
    return (
        f"{100 * record.accuracy:.1f}%"
        if record.accuracy is not None
        else f"{record.status}: {record.reason}"
    )


def _brief(expression: str) -> str:
    return expression if len(expression) <= 60 else expression[:59] + "…"
