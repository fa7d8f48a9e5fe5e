"""Saving against accuracy, relative to full fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bsr_explorer.report.figures.saving import draw
from bsr_explorer.report.study.findings import Findings
from tests.report.figures.conftest import offsets


def test_without_full_fine_tuning_the_best_stands_in_for_it(
    found: Findings, drawn: list[Any], tmp_path: Path
) -> None:
    draw(found, tmp_path)
    _, axes = drawn[0]
    best = max(point.score for point in found.points)
    assert offsets(axes) == {(p.saving, 100 * (p.score - best)) for p in found.points}
    assert axes.get_ylabel() == "accuracy, to the best trained\n(full fine-tuning was not) (points)"


def test_full_fine_tuning_is_the_reference(found: Findings, drawn: list[Any], tmp_path: Path) -> None:
    last = max(found.records)
    record = replace(
        found.records[0],
        config={**found.records[0].config, "method": "full"},
        key="of full fine-tuning",
        accuracy=0.5,
        predicted=found.full,
        study={**found.records[0].study, "counted_bytes": found.full["counted_bytes"]},
    )
    draw(Findings({**found.records, last + 1: record}), tmp_path)
    _, axes = drawn[0]
    assert (1.0, 0.0) in offsets(axes)
    first = found.points[0]
    assert (first.saving, 100 * (first.score - 0.5)) in offsets(axes)
    assert axes.get_ylabel() == "accuracy, to full fine-tuning (points)"
