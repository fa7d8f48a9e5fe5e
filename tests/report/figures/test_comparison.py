"""The figure of a comparison: a labelled point a method, and the budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bsr_explorer.report.comparison.write import report
from tests.report.figures.conftest import marks

MakeComparison = Callable[..., Any]


def test_every_method_is_a_labelled_point(compared_folder: Path, drawn: list[Any]) -> None:
    made = report(compared_folder)
    _, axes = drawn[0]
    assert marks(axes) == {(each["peak_bytes"] / 1e6, 100 * each["accuracy"]) for each in made.rows}
    assert {text.get_text() for text in axes.texts} == {"full", "linear", "last(k=1)"}
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "peak memory of a training step (MB)"
    assert axes.get_ylabel() == "validation accuracy (%), 2 seeds"


def test_the_budget_is_a_line(
    compared_folder: Path, make_comparison: MakeComparison, drawn: list[Any]
) -> None:
    make_comparison(budget="2500KB").write(compared_folder)
    report(compared_folder)
    _, axes = drawn[0]
    assert [2.5, 2.5] in [list(line.get_xdata()) for line in axes.lines]
    assert "budget 2500KB" in {text.get_text() for text in axes.texts}
