"""Memory by the published accounting, and in truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bsr_explorer.report.comparison.line import lines_of
from bsr_explorer.report.figures import accountings
from bsr_explorer.store.comparison_folder import StepTimes
from bsr_explorer.units import format_mb

MakeComparison = Callable[..., Any]


def test_each_accounting_has_its_bars(
    make_comparison: MakeComparison, drawn: list[Any], tmp_path: Path
) -> None:
    made = make_comparison("full, last(k=1), mesa")
    accountings.draw(made, lines_of(made, {}, StepTimes()), tmp_path)
    _, axes = drawn[0]
    published, saved, peak = ([bar.get_width() for bar in bars] for bars in axes.containers)
    assert published == [(entry.published_bytes or 0) / 1e6 for entry in made.entries]
    assert saved == [entry.saved_bytes / 1e6 for entry in made.entries]
    assert peak == [entry.peak_bytes / 1e6 for entry in made.entries]
    said = [text.get_text() for text in axes.texts]
    last, ratio = made.entries[1], made.full.peak_bytes / made.entries[1].peak_bytes
    assert f"{format_mb(last.peak_bytes, 0)} ({ratio:.2f}×)" in said
    assert said.count("— (no rule)") == 1
