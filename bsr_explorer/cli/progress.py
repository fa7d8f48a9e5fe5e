"""Progress of a search or a comparison: a line for each run, a bar, the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from bsr_explorer import pareto
from bsr_explorer.cli.console import err, format_seconds
from bsr_explorer.store.proxies import PROXIES_A_TRIAL
from bsr_explorer.units import format_mb, plural

if TYPE_CHECKING:
    from bsr_explorer.search.coordinator import Search
    from bsr_explorer.search.space import Candidate, Space
    from bsr_explorer.search.speed import Clock
    from bsr_explorer.store.records import Record


BAR_AFTER = 2.0
"""Seconds after which what is loaded, or looked at, is worth a bar."""


@contextmanager
def loading(what: str, bar_of: str = "reading each image once") -> Iterator[Callable[[int, int], None]]:
    """Say what is being done; yields what is told how many images of how many have been read.

    Args:
        bar_of: what is counted, in words, where it is something else.
    """
    columns = (TextColumn(bar_of), BarColumn(), MofNCompleteColumn())
    with (
        err.status(what) as status,
        Progress(*columns, console=err, transient=True, disable=True) as progress,
    ):
        bar = progress.add_task("")
        began: float | None = None

        def told(done: int, total: int) -> None:
            nonlocal began
            now = time.monotonic()
            began = now if began is None else began
            if progress.disable and now - began > BAR_AFTER:
                status.stop()
                progress.disable = False
                progress.start()
            progress.update(bar, completed=done, total=total)

        yield told


class Showing:
    """Shows progress in a bar."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bar = progress.add_task("", total=1.0, left="")


W = TypeVar("W", bound=Showing)


@contextmanager
def showing(make: Callable[[Progress], W]) -> Iterator[W]:
    """Show a bar on the error console; yields what reports go to."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=err, transient=True) as progress:
        yield make(progress)


@contextmanager
def watching(searching: Search, clock: Clock) -> Iterator[Progressing]:
    """Show a search's progress on the error console; yields what the search reports to."""
    with showing(lambda progress: Progressing(progress, searching, clock)) as watcher:
        yield watcher


@contextmanager
def watching_tasks() -> Iterator[Tasks]:
    """The same of a comparison or a confirmation."""
    with showing(Tasks) as watcher:
        yield watcher


class Progressing(Showing):
    """Prints a line a trial, and keeps a bar of the search with its front, one of each running trial, and the
    time left."""

    def __init__(self, progress: Progress, searching: Search, clock: Clock) -> None:
        super().__init__(progress)
        self.searching, self.clock = searching, clock
        self.running: dict[int, _Shown] = {}
        self.states, self.points = searching.book.counts(), searching.book.points()

    def trial_starts(self, number: int, candidate: Candidate, replica: int) -> None:
        """Show a trial that runs."""
        what = f"trial {number}: {_brief(str(candidate.config.how))}" + (
            f", seed {replica}" if replica else ""
        )
        what += f", with {self._proxy(candidate)}" if candidate.proxy else ""
        bar = self.progress.add_task(f"  {what}", total=1.0, left="")
        self.running[number] = _Shown(candidate, replica, bar, time.monotonic())
        self._show()

    def step(self, number: int, done: int, total: int, loss: float) -> None:
        """Advance its bar."""
        trial = self.running[number]
        trial.share = done / total
        self.progress.update(trial.bar, completed=trial.share)
        self._show()

    def trial_crashed(self, number: int, reason: str) -> None:
        """Say why it begins again."""
        trial = self.running[number]
        trial.began, trial.share = time.monotonic(), 0.0
        self.progress.update(trial.bar, completed=0.0)
        self.progress.console.print(f"trial {number}: {reason}; it runs again", markup=False)

    def trial_ends(self, number: int, record: Record) -> None:
        """Say how it ended."""
        trial = self.running.pop(number)
        seconds = time.monotonic() - trial.began
        if record.status in ("finished", "proxy"):
            self.clock.learn(trial.candidate.config, seconds, trial.candidate.proxy)
        self.progress.remove_task(trial.bar)
        self.states, self.points = self.searching.book.counts(), self.searching.book.points()
        self._show()
        self.progress.console.print(
            f"trial {number}: {_result(record)}, {format_mb(trial.candidate.counted_bytes, 0)} MB, "
            f"{format_seconds(seconds)}, {record.method}"
            + (f", seed {trial.replica}" if trial.replica else "")
            + (f", with {self._proxy(trial.candidate)}" if trial.candidate.proxy else "")
            + f"  [about {format_seconds(self._left())} left]",
            markup=False,
        )

    def _proxy(self, candidate: Candidate) -> str:
        return self.searching.study.fidelities[candidate.proxy].brief

    def _left(self) -> float:
        """Seconds of what runs and of what is to come, which as many at a time share."""
        study, space = self.searching.study, self.searching.space
        now = [
            self.clock.expected(t.candidate.config, t.candidate.proxy) * (1 - t.share)
            for t in self.running.values()
        ]
        to_come = self._to_come()
        at_proxies = self._proxies_to_come() * mean_expected(space, self.clock, 1) if study.proxies else 0.0
        left = (
            sum(now) + to_come * mean_expected(space, self.clock) + at_proxies
        ) / self.searching.workers.jobs
        left = max([left, *now])
        spent = time.monotonic() - self.searching.started
        return max(0.0, left if study.time_limit is None else min(left, study.time_limit - spent))

    def _to_come(self) -> int:
        """Trainings that have not begun: trials, and fresh seeds of as large a front as there is by now."""
        study, states = self.searching.study, self.states
        fresh = sum(trial.replica > 0 for trial in self.running.values())
        trials = study.trials - states["worth"] - (len(self.running) - fresh - self._at_proxies())
        accuracies, sizes = self._known()
        ahead = pareto.front(sizes, np.negative(accuracies))
        seeds = study.replicas * len(ahead) - states["fresh"] - fresh
        return max(0, trials) + max(0, seeds)

    def _proxies_to_come(self) -> int:
        """Trainings at proxies that have not begun, if there are as many as are planned."""
        begun = self.states["proxy"] + self._at_proxies()
        return max(0, PROXIES_A_TRIAL * self.searching.study.trials - begun)

    def _at_proxies(self) -> int:
        return sum(trial.candidate.proxy > 0 for trial in self.running.values())

    def _known(self) -> tuple[list[float], list[int]]:
        """Score and bytes of each single run so far."""
        return [score for score, _ in self.points], [int(size) for _, size in self.points]

    def _show(self) -> None:
        left, study = self._left(), self.searching.study
        spent = time.monotonic() - self.searching.started
        said = [f"{self.states['worth']} of {plural(study.trials, 'trial')}"]
        if self.states["proxy"]:
            said.append(f"{self.states['proxy']} at a proxy")
        said += [f"{self.states[state]} {state}" for state in ("stopped", "failed") if self.states[state]]
        if self.points:
            accuracies, sizes = self._known()
            area = pareto.hypervolume(sizes, accuracies, study.budget_bytes)
            said += [f"of single runs: best {100 * max(accuracies):.1f}%", f"hypervolume {area:.3f}"]
        self.progress.update(
            self.bar,
            description=", ".join(said),
            completed=spent / max(spent + left, 1e-9),
            left=f"about {format_seconds(left)} left",
        )


@dataclass
class _Shown:
    """A running trial, and its bar."""

    candidate: Candidate
    replica: int
    bar: TaskID
    began: float
    share: float = 0.0


class Task(Protocol):
    """One of several things to be done, with its share of all work."""

    @property
    def what(self) -> str:
        """In words."""
        ...

    @property
    def flops(self) -> int:
        """Of all its steps, or of as many as each of the others has."""
        ...


class Tasks(Showing):
    """Prints a line a run of a comparison or a confirmation; keeps the bar and the time left, at the pace so far."""

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


def mean_expected(space: Space, clock: Clock, proxy: int = 0) -> float:
    """Seconds of a trial, as the mean over the known configurations that fit."""
    known = [c for c in space.known if space.fits(c)] or [space.smallest]
    return sum(clock.expected(c.config, proxy) for c in known) / len(known)


def _result(record: Record) -> str:
    return (
        record.judged.text(record.score) if record.score is not None else f"{record.status}: {record.reason}"
    )


def _brief(expression: str) -> str:
    return expression if len(expression) <= 60 else expression[:59] + "…"
