"""A method of a comparison: its runs, and what they came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bsr_explorer.report.comparison.write import Report, report

MakeComparison = Callable[..., Any]


def test_measured_is_the_run_furthest_off(written: tuple[Path, Report]) -> None:
    line = written[1].lines[0]
    measured = {"peak_bytes": 8, "predicted_peak_bytes": 10, "saved_bytes": 3, "predicted_saved_bytes": 3}
    runs = [replace(line.runs[0], measured=measured), replace(line.runs[1], measured=None)]
    assert replace(line, runs=runs).measured("peak") == (10, 8)
    runs[1] = replace(line.runs[1], measured={**measured, "peak_bytes": 13})
    assert replace(line, runs=runs).measured("peak") == (10, 13)
    runs = [replace(run, measured={"saved_bytes": 3}) for run in line.runs]
    assert replace(line, runs=runs).measured("peak") is None


def test_one_seed_has_no_deviation(written: tuple[Path, Report]) -> None:
    line = written[1].lines[0]
    assert replace(line, runs=line.runs[:1]).deviation is None


def test_records_of_other_methods_are_left_out(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    make_comparison("last(k=1)", seeds=1).write(compared_folder)
    (line,) = report(compared_folder).lines
    assert [(run.method, run.seed) for run in line.runs] == [("last(k=1)", 0)]
