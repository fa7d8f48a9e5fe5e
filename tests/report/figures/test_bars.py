"""Bars of a comparison: what is known has its length and its value, and what is not says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bsr_explorer.report.comparison.line import lines_of
from bsr_explorer.report.figures import bars
from bsr_explorer.report.figures.bars import names
from bsr_explorer.store.comparison_folder import StepTimes, read_comparison, read_runs, read_step_times
from bsr_explorer.units import format_mb

MakeComparison = Callable[..., Any]


def texts(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.texts]


def lengths(panel: Any) -> list[float]:
    return [bar.get_width() for bar in panel.patches]


def test_what_was_not_run_says_so(make_comparison: MakeComparison, drawn: list[Any], tmp_path: Path) -> None:
    made = make_comparison()
    lines = lines_of(made, {}, StepTimes())
    bars.draw(made, lines, tmp_path)
    memory, compute, seconds, accuracy = drawn[0][1]
    assert lengths(memory) == [entry.peak_bytes / 1e6 for entry in made.entries]
    assert lengths(compute) == [entry.train_flops / 1e9 for entry in made.entries]
    assert texts(memory) == [
        f"{format_mb(e.peak_bytes, 0)} ({made.full.peak_bytes / e.peak_bytes:.2f}×)" for e in made.entries
    ]
    for panel in (seconds, accuracy):
        assert (texts(panel), lengths(panel)) == (["not run here"], [])
    assert memory.get_ylim()[0] > memory.get_ylim()[1]  # the first method on top


def test_what_was_run_is_drawn(compared_once: Path, drawn: list[Any], tmp_path: Path) -> None:
    made = read_comparison(compared_once)
    assert made is not None
    lines = lines_of(made, read_runs(made, compared_once), read_step_times(compared_once))
    bars.draw(made, lines, tmp_path)
    _, _, seconds, accuracy = drawn[0][1]
    assert lengths(accuracy) == [100 * (line.score or 0.0) for line in lines]
    assert lengths(seconds) == [line.step_seconds for line in lines]
    assert texts(accuracy) == [f"{100 * (line.score or 0.0):.1f}" for line in lines]
    assert accuracy.get_xlabel() == "validation accuracy (%),\n± over 2 seeds"


def test_one_that_does_not_fit_says_why(
    compared_once: Path, make_comparison: MakeComparison, drawn: list[Any], tmp_path: Path
) -> None:
    made = make_comparison(budget="1400KB")
    lines = lines_of(made, read_runs(made, compared_once), StepTimes())
    bars.draw(made, lines, tmp_path)
    accuracy = drawn[0][1][3]
    assert texts(accuracy)[0] == "does not fit"
    assert len(lengths(accuracy)) == 2


def test_names_break_between_arguments(make_comparison: MakeComparison) -> None:
    made = make_comparison("bsr(blocks=(1,), keep={0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25})")
    (name,) = names(lines_of(made, {}, StepTimes()))
    assert "\n" in name
    assert not any(line.endswith(":") for line in name.splitlines())
