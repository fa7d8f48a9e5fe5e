"""The runs of a comparison, one at a time, and who watches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bsr_explorer.compare.plan import run_flops
from bsr_explorer.config import Fidelity
from bsr_explorer.store.comparison_folder import Comparison, Entry, read_step_times
from bsr_explorer.store.records import Record, read_records

if TYPE_CHECKING:
    from bsr_explorer.finetune.job import Job


class Watcher(Protocol):
    """What a user is shown while a comparison runs."""

    def begins(self, tasks: Sequence[Task]) -> None:
        """This is to be done, in this order."""

    def starts(self, task: Task) -> None:
        """The next of it begins."""

    def step(self, done: int, total: int, loss: float = 0.0) -> None:
        """One step of the current task is done."""

    def ends(self, task: Task, record: Record | None) -> None:
        """The task is over; a run has its record."""


@dataclass(frozen=True)
class Task:
    """Something to be done: one run, or (without an entry) the timing of steps.

    Attributes:
        flops: of all its steps.
    """

    what: str
    flops: int
    entry: Entry | None = None
    seed: int = 0


def tasks(comparison: Comparison, folder: Path, rounds: int) -> list[Task]:
    """What is left to do in a folder: steps to time, then the runs without a record, a seed after the other.

    A run that failed is tried again; one that diverged has its result.
    """
    found = []
    if rounds and not read_step_times(folder).covers(comparison.fitting, rounds):
        flops = sum(entry.train_flops for entry in comparison.fitting)
        found.append(Task("step times", (1 + rounds) * flops))
    settled = {(r.key, r.seed) for r in read_records(folder).values() if r.status != "failed"}
    flops_of = cache(lambda entry: run_flops(comparison, entry))  # the same of each seed
    for seed in range(comparison.seeds):
        for entry in comparison.fitting:
            if (entry.key, seed) not in settled:
                found.append(Task(f"{entry.label}, seed {seed}", flops_of(entry), entry, seed))
    return found


def job_of(comparison: Comparison, data_dir: Path, seed: int = 0) -> Job:
    from bsr_explorer.finetune.job import Job

    return Job(comparison.data, Fidelity(**comparison.fidelity), comparison.weights, seed, data_dir)
