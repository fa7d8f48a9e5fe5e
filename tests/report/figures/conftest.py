"""A study's findings, and what a figure has drawn of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.report import style
from bsr_explorer.report.findings import Findings
from bsr_explorer.store.records import Record, read_records


@pytest.fixture(scope="module")
def found(finished_once: Path) -> Findings:
    return Findings(read_records(finished_once))


@pytest.fixture(scope="module")
def sure(found: Findings) -> Findings:
    """The same, with two fresh seeds of the first trial, five points apart."""
    return Findings(
        found.records | {7: fresh(found.records[0], 1, 0.20), 8: fresh(found.records[0], 2, 0.25)}
    )


def fresh(record: Record, replica: int, accuracy: float) -> Record:
    """A run of the same configuration on a fresh seed."""
    return replace(record, accuracy=accuracy, seed=replica, study={**record.study, "replica": replica})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """(figure, axes) of each figure that is made."""
    made: list[tuple[Any, Any]] = []
    real = style.figure

    @contextmanager
    def watched(*size: float, **options: Any) -> Iterator[tuple[Any, Any]]:
        with real(*size, **options) as both:
            made.append(both)
            yield both

    monkeypatch.setattr(style, "figure", watched)
    return made


def offsets(axes: Any) -> set[tuple[float, float]]:
    """Where an axes' markers are."""
    return {(float(x), float(y)) for drawn in axes.collections for x, y in drawn.get_offsets()}
