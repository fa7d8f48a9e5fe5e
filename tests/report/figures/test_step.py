"""Memory over one training step."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.report import style
from bsr_explorer.report.figures.step import draw
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.units import format_mb


def test_the_stack_is_as_high_as_the_predicted_peak(
    found: Findings, drawn: list[Any], tmp_path: Path
) -> None:
    assert draw(found, tmp_path)[0].name == "memory_over_a_step.png"
    _, grid = drawn[0]
    chosen = found.recommendation.point.record.predicted
    for axes, predicted in zip(grid[:, 0], (found.full, chosen), strict=True):
        stacks = [patch.get_data() for patch in axes.patches]
        assert len(stacks) == len(style.ALIVE)
        assert max(stacks[-1].values) == pytest.approx(predicted["peak_bytes"] / 1e6)
        for below, above in pairwise(stacks):
            assert list(above.baseline) == list(below.values)
        (peak,) = [text.get_text() for text in axes.texts if text.get_text().startswith("peak")]
        assert peak.startswith(f"peak {format_mb(predicted['peak_bytes'], 0)} MB, ")
        names = [text.get_text() for text in axes.get_xticklabels()]
        along = [text.get_text() for text in axes.texts if text.get_rotation() == 90]
        assert names + along == ["forward", "backward", "optimiser"]
