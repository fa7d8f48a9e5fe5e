"""Training what is to be confirmed. It survives being killed at any moment: each run leaves its record, whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bsr_explorer import interrupt
from bsr_explorer.confirm.plan import Run, config_of
from bsr_explorer.finetune.attempt import attempt
from bsr_explorer.finetune.job import Job
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import Record, read_records, write_record

LOCK = "confirm.lock"

CHECKPOINT_EVERY = 60.0
"""Seconds of a run that Ctrl-C or a kill may lose."""


class Watcher(Protocol):
    """What a user is shown meanwhile."""

    def begins(self, tasks: Sequence[Run]) -> None:
        """These are to be done, in this order."""

    def starts(self, task: Run) -> None:
        """The next of them begins."""

    def step(self, done: int, total: int, loss: float = 0.0) -> None:
        """A step of it is done."""

    def ends(self, task: Run, record: Record) -> None:
        """It is over."""


def confirm(runs: Sequence[Run], job: Job, device: str | None, folder: Path, watcher: Watcher) -> None:
    """Train these runs, and write their records into a folder.

    Args:
        job: data, weights and fidelity of every run, with nothing left open (the seed is each run's own).
        device: to train on; None: that of the study.

    Raises:
        UserError: another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with interrupt.held(), alone(folder, LOCK, "confirmation"):
        watcher.begins(runs)
        for run in runs:
            interrupt.check()
            watcher.starts(run)
            key, known = run.point.record.key, read_records(folder)
            same = [number for number, r in known.items() if (r.key, r.seed) == (key, run.seed)]
            number = same[0] if same else max(known, default=-1) + 1
            checkpoint = folder.resolve() / "checkpoints" / f"{number:04d}.pt"
            one = replace(job, seed=run.seed, checkpoint=checkpoint, checkpoint_every=CHECKPOINT_EVERY)
            made = attempt(config_of(run.point, device), key, one, watcher.step)
            write_record(folder, number, made)
            checkpoint.unlink(missing_ok=True)
            watcher.ends(run, made)
