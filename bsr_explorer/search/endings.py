"""How a search ends, and how a trial ends that leaves no sound record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from bsr_explorer.models.architecture import quality_of
from bsr_explorer.prediction import predict
from bsr_explorer.search.choices import Candidate
from bsr_explorer.search.executors.base import Crashed, Task
from bsr_explorer.store.provenance import provenance
from bsr_explorer.store.records import Record
from bsr_explorer.units import format_bytes

FAILURES = 3
"""Trials in a row that fail before a search gives up: the next would most likely fail too."""

AGAIN = {"crash": 1, "timeout": 1, "lost": 5, "out_of_memory": 0}
"""How often a trial is run again that ended without a record. (Crashes and timeouts count together.)"""


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
        quality=quality_of(task.config.model).name,
        seed=task.job.seed,
        reason=crash.reason + (f" (attempt {attempts})" if attempts > 1 else ""),
        predicted=predict(task.config).summary(),
        provenance=provenance(task.config.device),
    )


def failing(statuses: Mapping[int, str]) -> bool:
    """Whether the last trials, in the order of their numbers, all failed.

    Args:
        statuses: of the trials that ended, by number.
    """
    last = [statuses[number] for number in sorted(statuses)][-FAILURES:]
    return len(last) == FAILURES and all(status in ("failed", "out_of_memory") for status in last)


def sound(record: Record) -> Record:
    """A quality that is no number is no result."""
    if record.score is None or math.isfinite(record.score):
        return record
    reason = f"the {record.quality} was {record.judged.value(record.score)}"
    return replace(record, status="diverged", accuracy=None, perplexity=None, reason=reason)


def why_not_again(record: Record | None, room: int) -> str | None:
    """Why to train the same again would be in vain; None: it might not be."""
    if record is None or record.status == "failed":
        return None
    if record.status == "out_of_memory":
        before = record.study.get("room_bytes", 0)
        if room > before:
            return None
        return (
            f"{record.reason}; it had {format_bytes(before)} and would have no more now: lower --jobs, or take a "
            "machine with more"
        )
    return f"{record.reason}; with the same seed it would do so again"
