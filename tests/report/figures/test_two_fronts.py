"""The fronts of two studies in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bsr_explorer.report.between.between import Between
from bsr_explorer.report.figures.two_fronts import draw


def test_both_fronts_are_lines_to_the_reference(
    finished_once: Path, drawn: list[Any], tmp_path: Path
) -> None:
    between = Between.read((finished_once, finished_once))
    draw(between, tmp_path)
    _, axes = drawn[0]
    fronts = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(fronts) == 2
    for line, side in zip(fronts, between.sides, strict=True):
        assert list(line.get_xdata()) == [*[p.bytes / 1e6 for p in side.front], between.reference / 1e6]
