"""The front of a study and the configuration to recommend, from its records alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bsr_explorer.store.records import Record
from bsr_explorer.units import in_mb


@dataclass(frozen=True)
class Point:
    """A finished trial: its accuracy in [0, 1] and its memory in bytes by the study's accounting."""

    number: int
    record: Record
    accuracy: float
    bytes: int

    @property
    def method(self) -> str:
        """The method's expression."""
        return self.record.method

    @property
    def full(self) -> dict[str, Any]:
        """The prediction for full fine-tuning of the same model and batch."""
        full: dict[str, Any] = self.record.study["full"]
        return full

    @property
    def saving(self) -> float:
        """Memory of full fine-tuning over this one's."""
        return float(self.full["counted_bytes"]) / self.bytes

    @property
    def compute_saving(self) -> float:
        """Training FLOPs of full fine-tuning over this one's."""
        return float(self.full["train_flops"]) / float(self.record.predicted["train_flops"])


def points(records: dict[int, Record]) -> list[Point]:
    """The finished trials of a study, in order."""
    return [
        Point(number, record, record.accuracy, int(record.study["counted_bytes"]))
        for number, record in sorted(records.items())
        if record.status == "finished" and record.accuracy is not None
    ]


def front(candidates: Iterable[Point]) -> list[Point]:
    """The trials that no other beats in memory without losing accuracy, least memory first.

    Of trials equal in both, the first one stands.
    """
    ahead: list[Point] = []
    for point in sorted(candidates, key=lambda p: (p.bytes, -p.accuracy, p.number)):
        if not ahead or point.accuracy > ahead[-1].accuracy:
            ahead.append(point)
    return ahead


@dataclass(frozen=True)
class Recommendation:
    """One point of the front, and why."""

    point: Point
    reason: str


def recommend(ahead: Sequence[Point]) -> Recommendation:
    """The least memory whose accuracy cannot be told from the best.

    Within one standard error of the best accuracy, which validation images in that number allow.
    """
    best = ahead[-1]
    images = validation_images(best.record)
    error = math.sqrt(best.accuracy * (1 - best.accuracy) / images) if images else 0.0
    chosen = next(point for point in ahead if point.accuracy >= best.accuracy - error)
    share = 1 - chosen.bytes / best.bytes
    if chosen is best:
        return Recommendation(
            chosen, f"the best accuracy; none with less memory comes within ±{100 * error:.1f} points"
        )
    return Recommendation(
        chosen,
        f"{100 * chosen.accuracy:.1f}% is within one standard error (±{100 * error:.1f} points on {images} "
        f"validation images) of the best, {100 * best.accuracy:.1f}%, and takes {100 * share:.0f}% less memory "
        f"({in_mb(chosen.bytes):,.0f} against {in_mb(best.bytes):,.0f} MB)",
    )


def validation_images(record: Record) -> int:
    """How many images the accuracy was measured on."""
    match = re.search(r"validation (\d+)", record.split)
    return int(match.group(1)) if match else 0
