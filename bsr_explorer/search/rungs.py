"""Early stopping: a trial stops at a rung if trials of no more memory are better there, beyond noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BEYOND = 2.0
"""Standard errors of the difference of two accuracies that count as noise."""

PEERS = 2
"""Trials of no more memory that must have beaten a trial, for one may have been lucky."""


@dataclass(frozen=True)
class Seen:
    """A trial whose scores are known.

    Attributes:
        bytes: its memory by the study's accounting.
        history: score in [0, 1] after so many epochs.
    """

    bytes: int
    history: Mapping[int, float]


def bars(rungs: Sequence[int], size: int, others: Sequence[Seen], images: int) -> dict[int, float]:
    """What a trial must reach at each rung to go on; minus infinity where it only looks.

    A trial of the least or the most memory so far always goes on: the front ends there.

    Args:
        rungs: numbers of finished epochs.
        size: bytes of the trial by the study's accounting.
        images: validation images, or sequences, that scores are measured on.
    """
    extreme = not others or not min(o.bytes for o in others) < size < max(o.bytes for o in others)
    return {rung: -math.inf if extreme else _bar(rung, size, others, images) for rung in rungs}


def _bar(rung: int, size: int, others: Sequence[Seen], images: int) -> float:
    peers = sorted((o.history[rung] for o in others if o.bytes <= size and rung in o.history), reverse=True)
    if len(peers) < PEERS:
        return -math.inf
    beaten_by = peers[PEERS - 1]
    return beaten_by - BEYOND * math.sqrt(2 * beaten_by * (1 - beaten_by) / max(1, images))
