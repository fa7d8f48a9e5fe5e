"""What a running search shows: a line a trial, and the time that is left."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from bsr_explorer.cli import progress
from bsr_explorer.compare.task import Task
from bsr_explorer.quality import ACCURACY


class _Clock:
    """Expects ten seconds of every trial."""

    def expected(self, config: Any, proxy: int = 0) -> float:
        return 10.0

    def learn(self, config: Any, seconds: float, proxy: int = 0) -> None:
        self.learned = seconds


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(progress, "err", Console(file=text, width=200))
    return text


class _Book:
    """Counts what has ended, and knows one point of a front."""

    def __init__(self) -> None:
        self.worth = self.failed = self.fresh = 0

    def counts(self) -> dict[str, int]:
        return {
            "worth": self.worth,
            "stopped": 0,
            "failed": self.failed,
            "fresh": self.fresh,
            "proxy": 0,
        }

    def points(self) -> list[tuple[float, float]]:
        return [(0.5, 2e6)] * self.worth


def _searching(time_limit: float | None, started: float = 0.0, jobs: int = 1, replicas: int = 0) -> Any:
    candidate = SimpleNamespace(config=SimpleNamespace(how="linear"), counted_bytes=2_000_000, proxy=0)
    space = SimpleNamespace(known=[candidate], smallest=candidate, fits=lambda c: True)
    study = SimpleNamespace(
        trials=4, replicas=replicas, time_limit=time_limit, budget_bytes=4_000_000, proxies=()
    )
    workers = SimpleNamespace(jobs=jobs)
    made = SimpleNamespace(study=study, space=space, started=started, workers=workers, book=_Book())
    return made, candidate


def test_a_finished_trial_is_a_line_with_the_time_left(shown: io.StringIO) -> None:
    searching, candidate = _searching(None)
    record = SimpleNamespace(score=0.5, judged=ACCURACY, status="finished", reason="", method="linear")
    clock = _Clock()
    with progress.watching(searching, clock) as watcher:  # type: ignore[arg-type]
        watcher.trial_starts(0, candidate, 0)
        watcher.step(0, 1, 2, 0.1)
        assert watcher._left() == 35.0
        searching.book.worth = 1
        watcher.trial_ends(0, record)  # type: ignore[arg-type]
        said = watcher.progress.tasks[0].description
    assert "trial 0: 50.0%, 2 MB, 0 s, linear  [about 30 s left]" in shown.getvalue()
    assert said == "1 of 4 trials, of single runs: best 50.0%, hypervolume 0.250"
    assert clock.learned < 1.0


def test_the_fresh_seeds_of_the_front_so_far_are_to_come(shown: io.StringIO) -> None:
    searching, candidate = _searching(None, replicas=3)
    with progress.watching(searching, _Clock()) as watcher:  # type: ignore[arg-type]
        each = watcher.clock.expected(candidate.config)
        assert watcher._left() == 4 * each  # there is no front yet
        searching.book.worth, searching.book.fresh = 4, 1
        watcher.states, watcher.points = searching.book.counts(), [(0.5, 2.0), (0.4, 3.0), (0.6, 4.0)]
        assert watcher._left() == (2 * 3 - 1) * each
        watcher.trial_starts(7, candidate, 2)
        assert watcher._left() == (2 * 3 - 1) * each


def test_a_fresh_seed_is_told(shown: io.StringIO) -> None:
    searching, candidate = _searching(None)
    record = SimpleNamespace(score=0.5, judged=ACCURACY, status="finished", reason="", method="linear")
    with progress.watching(searching, _Clock()) as watcher:  # type: ignore[arg-type]
        watcher.trial_starts(4, candidate, 2)
        watcher.trial_ends(4, record)  # type: ignore[arg-type]
    assert "trial 4: 50.0%, 2 MB, 0 s, linear, seed 2 " in shown.getvalue()


def test_a_failed_trial_says_why_and_the_clock_does_not_learn_from_it(shown: io.StringIO) -> None:
    searching, candidate = _searching(None)
    record = SimpleNamespace(
        score=None, judged=ACCURACY, status="diverged", reason="the loss was nan", method="linear"
    )
    clock = _Clock()
    with progress.watching(searching, clock) as watcher:  # type: ignore[arg-type]
        watcher.trial_starts(7, candidate, 0)
        searching.book.failed = 1
        watcher.trial_ends(7, record)  # type: ignore[arg-type]
        assert watcher.progress.tasks[0].description == "0 of 4 trials, 1 failed"
    assert "trial 7: diverged: the loss was nan" in shown.getvalue()
    assert not hasattr(clock, "learned")


def test_a_trial_that_crashed_begins_again(shown: io.StringIO) -> None:
    searching, candidate = _searching(None)
    with progress.watching(searching, _Clock()) as watcher:  # type: ignore[arg-type]
        watcher.trial_starts(0, candidate, 0)
        watcher.step(0, 1, 2, 0.1)
        watcher.trial_crashed(0, "its process was killed by SIGSEGV")
        assert watcher._left() == 40.0
    assert "trial 0: its process was killed by SIGSEGV; it runs again" in shown.getvalue()


def test_trials_at_once_are_a_bar_each_and_share_the_time(shown: io.StringIO) -> None:
    searching, candidate = _searching(None, jobs=2)
    with progress.watching(searching, _Clock()) as watcher:  # type: ignore[arg-type]
        watcher.trial_starts(0, candidate, 0)
        watcher.trial_starts(1, candidate, 0)
        watcher.step(1, 1, 2, 0.1)
        described = [(task.description, task.completed) for task in watcher.progress.tasks[1:]]
        assert described == [("  trial 0: linear", 0.0), ("  trial 1: linear", 0.5)]
        assert watcher._left() == (10 + 5 + 2 * 10) / 2


def test_no_more_is_left_than_the_time_limit(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    searching, candidate = _searching(time_limit=15.0, started=97.0)
    with progress.watching(searching, _Clock()) as watcher:  # type: ignore[arg-type]
        watcher.trial_starts(0, candidate, 0)
        assert watcher._left() == 12.0


def test_a_run_of_a_comparison_is_a_line_with_the_time_left(
    shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tasks = [Task("step times", 10), Task("full, seed 0", 20), Task("linear, seed 0", 10)]
    good = SimpleNamespace(score=0.5, judged=ACCURACY, status="finished", reason="")
    bad = SimpleNamespace(score=None, judged=ACCURACY, status="diverged", reason="the loss was [nan]")
    with progress.watching_tasks() as watcher:
        watcher.begins(tasks)
        for task, record, seconds in zip(tasks, (None, good, bad), (5, 15, 1), strict=True):
            watcher.starts(task)
            now[0] += seconds
            watcher.step(1, 2)
            watcher.ends(task, record)  # type: ignore[arg-type]
    lines = shown.getvalue().splitlines()
    assert "step times: 5 s  [about 15 s left]" in lines
    assert "full, seed 0: 50.0%, 15 s  [about 7 s left]" in lines
    assert "linear, seed 0: diverged: the loss was [nan], 1 s  [about 0 s left]" in lines
