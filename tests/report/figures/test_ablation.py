"""What keep rates and choices of blocks cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bsr_explorer.report.comparison.line import lines_of
from bsr_explorer.report.figures import ablation
from bsr_explorer.store.comparison_folder import StepTimes, read_runs, read_step_times

MakeComparison = Callable[..., Any]


def test_costs_are_drawn_against_the_keep_rate(
    make_comparison: MakeComparison, drawn: list[Any], tmp_path: Path
) -> None:
    rates = (1.0, 0.5, 0.25)
    methods = ", ".join(f"bsr(blocks=(1, 3), keep={{2: {rate}}})" for rate in rates)
    made = make_comparison(f"full, {methods}")
    full, *lines = lines_of(made, {}, StepTimes())
    ablation.keep_rates({"fused": dict(zip(rates, lines, strict=True))}, full, tmp_path)
    memory, compute, accuracy = drawn[0][1]
    for panel, value in ((memory, "peak_bytes"), (compute, "train_flops")):
        scale = {"peak_bytes": 1e6, "train_flops": 1e9}[value]
        curve, whole = panel.lines
        assert list(curve.get_xdata()) == sorted(rates)
        assert list(curve.get_ydata()) == [getattr(line.entry, value) / scale for line in reversed(lines)]
        assert set(whole.get_ydata()) == {getattr(full.entry, value) / scale}
    assert [text.get_text() for text in accuracy.texts] == ["not run here"]


def test_trained_blocks_are_filled_squares(
    compared_once: Path, make_comparison: MakeComparison, drawn: list[Any], tmp_path: Path
) -> None:
    made = make_comparison()
    full, linear, last = lines_of(made, read_runs(made, compared_once), read_step_times(compared_once))
    ablation.trained_blocks({(): linear, (3,): last}, full, 4, tmp_path)
    squares, memory, _, accuracy = drawn[0][1]
    filled = {
        (int(line.get_xdata()[0]), int(line.get_ydata()[0]))
        for line in squares.lines
        if line.get_markerfacecolor() != "none"
    }
    assert (len(squares.lines), filled) == (8, {(3, 1)})
    assert [bar.get_width() for bar in memory.patches] == [
        line.entry.peak_bytes / 1e6 for line in (linear, last)
    ]
    assert memory.texts[1].get_text().endswith(f"({full.entry.peak_bytes / last.entry.peak_bytes:.2f}×)")
    assert [bar.get_width() for bar in accuracy.patches] == [
        100 * (line.score or 0.0) for line in (linear, last)
    ]
