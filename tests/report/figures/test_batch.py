"""Memory against batch size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.prediction import counted_bytes
from bsr_explorer.report import style
from bsr_explorer.report.figures.batch import SIZES, draw
from bsr_explorer.report.study.findings import Findings


def test_each_marker_is_the_predicted_memory_of_its_batch(
    found: Findings, drawn: list[Any], tmp_path: Path
) -> None:
    draw(found, tmp_path)
    _, axes = drawn[0]
    lines = {line.get_label(): line for line in axes.lines}
    families = {style.family(point.method) for point in found.front}
    assert set(lines) == families | {"full", "budget 1400KB", "batch of the study"}
    full = [
        counted_bytes(replace(found.config.with_method("full"), batch_size=size), "peak") for size in SIZES
    ]
    assert list(lines["full"].get_xdata()) == list(SIZES)
    assert list(lines["full"].get_ydata()) == pytest.approx([size / 1e6 for size in full])
    assert set(lines["budget 1400KB"].get_ydata()) == {1.4}
