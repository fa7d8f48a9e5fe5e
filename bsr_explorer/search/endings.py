"""How a search ends, and how a trial ends that leaves no sound record."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from bsr_explorer.prediction import predict
from bsr_explorer.search.choices import Candidate
from bsr_explorer.search.executors.base import Crashed, Task
from bsr_explorer.store.provenance import provenance
from bsr_explorer.store.records import Record


@dataclass(frozen=True)
class Ended:
    """Why a search ended: ``trials`` reached, ``time`` over, the space ``exhausted``, or too many
    ``failures`` in a row.

    Attributes:
        finished: trials that were trained as far as they were worth, fresh seeds apart.
        failed: trials that were not.
    """

    because: str
    finished: int
    failed: int


@dataclass
class Running:
    """A trial that runs, with how it ended before where it runs again."""

    candidate: Candidate
    task: Task
    attempts: list[dict[str, str]]


def record_of_crash(crash: Crashed, running: Running) -> Record:
    """The record of a trial that left none."""
    task, attempts = running.task, len(running.attempts)
    return Record(
        status="out_of_memory" if crash.kind == "out_of_memory" else "failed",
        config=task.config.to_dict(),
        key=task.key,
        fidelity=asdict(task.job.fidelity),
        data=task.job.data,
        seed=task.job.seed,
        reason=crash.reason + (f" (attempt {attempts})" if attempts > 1 else ""),
        predicted=predict(task.config).summary(),
        provenance=provenance(task.config.device),
    )


def sound(record: Record) -> Record:
    """An accuracy that is no number is no result."""
    if record.accuracy is None or math.isfinite(record.accuracy):
        return record
    return replace(record, status="diverged", accuracy=None, reason=f"the accuracy was {record.accuracy}")
