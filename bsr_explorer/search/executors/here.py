"""Trials in this very process, one after another."""

from __future__ import annotations

from functools import partial

from bsr_explorer.finetune.attempt import attempt
from bsr_explorer.search.executors.base import Crashed, Done, Progress, Task
from bsr_explorer.search.executors.machine import memory_of


class Here:
    """Trains in this process, one trial after another."""

    jobs: int = 1
    threads: int | None = None

    def __init__(self) -> None:
        self._task: Task | None = None

    def begin(self, task: Task) -> None:
        """See ``Executor``. Training starts when it is waited for."""
        self._task = task

    def wait(self, progress: Progress, seconds: float) -> list[Done | Crashed]:
        """See ``Executor``."""
        assert self._task is not None
        task, self._task = self._task, None
        return [Done(task.number, attempt(task.config, task.key, task.job, partial(progress, task.number)))]

    def stop(self) -> None:
        """See ``Executor``."""
        self._task = None

    def parallel(self, device: str) -> int:
        """See ``Executor``."""
        return 1

    def room(self, device: str) -> int:
        """See ``Executor``."""
        return memory_of(device)
