"""A recorded run, trained again and compared."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bsr_explorer.errors import UserError
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import Record
from bsr_explorer.store.trials import images_that_count

if TYPE_CHECKING:
    from bsr_explorer.finetune.job import Job

DECIDES = ("bsr_explorer", "torch", "timm", "torchvision", "numpy", "device", "processor", "threads")
"""Keys of a record's provenance that its numbers follow from, to the last bit."""

SLACK = 0.01
"""The part of itself by which a perplexity may be another where not all is the same."""


@dataclass(frozen=True)
class Reproduction:
    """A run, the same run again, and how far apart they may be.

    Attributes:
        tolerance: the most by which accuracies may differ, in [0, 1], or perplexities.
        why: which tolerance that is, in words.
    """

    record: Record
    again: Record
    tolerance: float
    why: str

    @property
    def difference(self) -> float | None:
        """The most by which accuracies, or perplexities, after the same epochs differ; None if one run has some that
        the other has not."""
        mine, theirs = self.record.history, self.again.history
        if len(mine) != len(theirs):
            return None
        return max((abs(a - b) for a, b in zip(mine, theirs, strict=True)), default=0.0)

    @property
    def agrees(self) -> bool:
        """Whether both ended alike, with accuracies within the tolerance."""
        same = self.again.status == self.record.status
        return same and self.difference is not None and self.difference <= self.tolerance


def reproduce(
    record: Record,
    data_dir: Path | None = None,
    tolerance: float | None = None,
    progress: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> Reproduction:
    """Train a record's configuration again, with its fidelity, data, weights and seed.

    What was stopped at a rung is stopped there again.

    Args:
        tolerance: None: 0 where the same versions run on the same kind of CPU, else one standard error of
            the validation accuracy, or ``SLACK`` of the perplexity.

    Raises:
        UserError: a record without a result, or data or weights that are not there.
    """
    check_tolerance(tolerance)
    experiment, job = plan(record, data_dir)
    from bsr_explorer.finetune.attempt import attempt

    again = attempt(experiment.config, record.key, job, progress)
    if tolerance is not None:
        return Reproduction(record, again, tolerance, "as was asked for")
    return Reproduction(record, again, *_tolerance(record, again))


def check_tolerance(tolerance: float | None) -> None:
    """Refuse what is no difference of accuracies or perplexities.

    Raises:
        UserError: it is below 0, above 1, or no number.
    """
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise UserError(f"--tolerance: {tolerance} must be a difference of accuracies, from 0 to 1")


def plan(record: Record, data_dir: Path | None = None) -> tuple[Experiment, Job]:
    """What to run to have a record again.

    Raises:
        UserError: a record without a result.
    """
    if record.status in ("failed", "out_of_memory"):
        raise UserError(
            f"TRIAL: it ended as {record.status} ({record.reason}), without a result to come to again; "
            "choose one that finished"
        )
    from bsr_explorer.finetune.job import Job

    experiment = Experiment.of_record("again", record, weights_of(record))
    looks = dict.fromkeys(record.history_epochs, -math.inf)
    if record.status == "stopped":
        looks[record.history_epochs[-1]] = math.inf
    job = Job(
        data=record.data,
        fidelity=experiment.fidelity,
        weights=experiment.weights,
        seed=record.seed,
        data_dir=data_dir,
        test=record.test_score is not None,
        every_epoch=not looks and len(record.history) > 1,  # before records said after which epochs
        rungs=looks,
    )
    return experiment, job


def weights_of(record: Record) -> str:
    """The value of ``--weights`` that gives a record's weights."""
    source, _, detail = record.weights.partition(": ")
    if source != "file":
        return source
    return re.sub(r" \(sha256 [0-9a-f]+….*\)$", "", detail)


def changed(record: Record, again: Record) -> list[str]:
    """What two runs do not have in common, of what their numbers follow from: ``torch 2.14 → 2.15``."""
    before, now = record.provenance, again.provenance
    found = [
        f"{key} {before.get(key, 'unknown')} → {now.get(key)}"
        for key in DECIDES
        if before.get(key) != now.get(key)
    ]
    found += [
        f"{name} {old} → {new}"
        for name, old, new in (
            ("weights", record.weights, again.weights),
            ("data", record.split, again.split),
        )
        if new and old != new  # a run that failed does not say
    ]
    return found


def _tolerance(record: Record, again: Record) -> tuple[float, str]:
    others = changed(record, again)
    if not others and record.config["device"] == "cpu":
        return 0.0, "the same versions on the same kind of CPU give the same to the last bit"
    images, quality, score = images_that_count(record), record.judged, record.score or 0.0
    because = "; ".join(others) or "a GPU's kernels add up in no fixed order"
    if not quality.higher:
        slack = SLACK * quality.value(score)
        return slack, f"{SLACK:.0%} of the {quality.name}, for not all is the same: {because}"
    error = quality.standard_error(score, images)
    error = max(error, 1 / images) if images else 0.0
    return (
        error,
        f"one standard error on {images} {record.protocol.judged_on} images, for not all is the same: {because}",
    )
