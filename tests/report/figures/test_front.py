"""Accuracy against memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.report.figures.axes import MEMORY_AXIS
from bsr_explorer.report.figures.front import draw
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.study import COUNTS
from tests.report.figures.conftest import offsets


def test_every_trial_is_a_point(found: Findings, drawn: list[Any], tmp_path: Path) -> None:
    paths = draw(found, tmp_path)
    assert [path.name for path in paths] == ["front.png"]
    (_, axes), *_ = drawn
    assert offsets(axes) == {(p.bytes / 1e6, 100 * p.score) for p in found.points}
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "validation accuracy (%)"


def test_the_front_is_a_line_from_least_to_most(found: Findings, drawn: list[Any], tmp_path: Path) -> None:
    draw(found, tmp_path)
    (line,) = [line for line in drawn[0][1].lines if line.get_label() == "front"]
    assert list(line.get_xdata()) == [*[p.bytes / 1e6 for p in found.front], 1.4]  # to the budget
    best = 100 * found.front[-1].score
    assert list(line.get_ydata()) == [*[100 * p.score for p in found.front], best]


def test_budget_and_full_fine_tuning_are_marked(found: Findings, drawn: list[Any], tmp_path: Path) -> None:
    draw(found, tmp_path)
    figure, axes = drawn[0]
    upright = {
        line.get_label(): line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1
    }
    assert upright == {"budget 1400KB": 1.4, "full fine-tuning, 1.5 MB": found.full["counted_bytes"] / 1e6}
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} >= {"front", "linear", "bsr", "last"}


def test_means_have_error_bars(sure: Findings, drawn: list[Any], tmp_path: Path) -> None:
    draw(sure, tmp_path)
    _, axes = drawn[0]
    (bar,) = axes.containers
    ((low, high),) = [path.vertices[:, 1] for path in bar.lines[2][0].get_paths()]
    spread = 100 * 0.05 / 2**0.5
    assert (low, high) == (pytest.approx(22.5 - spread), pytest.approx(22.5 + spread))
    assert axes.get_ylabel() == "validation accuracy (%), ± over 2 seeds"


@pytest.mark.parametrize("counts", COUNTS)
def test_the_axis_says_what_is_counted(
    found: Findings, drawn: list[Any], tmp_path: Path, counts: str
) -> None:
    for record in found.records.values():
        record.study["counts"], before = counts, record.study["counts"]
    draw(found, tmp_path)
    for record in found.records.values():
        record.study["counts"] = before
    assert drawn[0][1].get_xlabel() == MEMORY_AXIS[counts]
    assert drawn[0][1].get_xlabel().endswith("(MB)")
