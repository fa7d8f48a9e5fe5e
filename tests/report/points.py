"""Records and points made by hand."""

from __future__ import annotations

from typing import Any

from bsr_explorer.report.front import Point
from bsr_explorer.store.records import Record


def record(size: int, accuracy: float | None, images: int = 100, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "status": "finished",
        "config": {"method": "linear"},
        "key": f"{size}",
        "fidelity": {},
        "data": "digits",
        "seed": 0,
        "split": f"train 20, validation {images}, test 360",
        "accuracy": accuracy,
        "predicted": {"train_flops": 50},
        "study": {"counted_bytes": size, "full": {"counted_bytes": 1000, "train_flops": 400}},
    }
    return Record(**{**values, **changes})


def point(number: int, size: int, accuracy: float, images: int = 100) -> Point:
    return Point(number, record(size, accuracy, images), accuracy, size)


def made(*pairs: tuple[int, float]) -> list[Point]:
    return [point(number, *pair) for number, pair in enumerate(pairs)]


def numbers(ahead: list[Point]) -> list[int]:
    return [p.number for p in ahead]


def runs(*accuracies: float | None, size: int = 100) -> dict[int, Record]:
    """One configuration: the trial that the search chose, and fresh runs of it."""
    return {
        number: record(
            size,
            accuracy,
            status="diverged" if accuracy is None else "finished",
            study={**record(size, 0.0).study, "replica": number},
        )
        for number, accuracy in enumerate(accuracies)
    }
