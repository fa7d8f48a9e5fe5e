"""Predicted against measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bsr_explorer.report.figures.calibration import draw
from bsr_explorer.report.study.findings import Findings
from tests.report.figures.conftest import offsets


def test_peak_and_saved_memory_of_every_trial_are_points(
    found: Findings, drawn: list[Any], tmp_path: Path
) -> None:
    assert draw(found, tmp_path)[0].name == "calibration.png"
    (_, axes), *_ = drawn
    measured = [r.measured for r in found.records.values() if r.measured is not None]
    assert len(measured) == 7
    assert offsets(axes) == {
        (m[f"predicted_{kind}_bytes"] / 1e6, m[f"{kind}_bytes"] / 1e6)
        for m in measured
        for kind in ("peak", "saved")
    }
    (line,) = axes.lines
    assert list(line.get_xdata()) == list(line.get_ydata())
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["peak memory (7 trials)", "saved memory (7 trials)"]


def test_faults_are_marked(found: Findings, drawn: list[Any], tmp_path: Path) -> None:
    record = found.records[0]
    assert record.measured is not None
    high = {**record.measured, "peak_bytes": 2 * record.measured["predicted_peak_bytes"], "fault": "too high"}
    draw(Findings({0: replace(record, measured=high), 1: found.records[1]}), tmp_path)
    (_, axes), *_ = drawn
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[-1] == "over 2% above the prediction (1)"
    assert (high["predicted_peak_bytes"] / 1e6, high["peak_bytes"] / 1e6) in offsets(axes)


def test_a_trial_without_a_whole_batch_has_no_peak_to_show(
    found: Findings, drawn: list[Any], tmp_path: Path
) -> None:
    record = found.records[0]
    assert record.measured is not None
    little = {key: value for key, value in record.measured.items() if "peak" not in key}
    draw(Findings({0: replace(record, measured=little)}), tmp_path)
    assert [text.get_text() for text in drawn[0][1].get_legend().get_texts()] == ["saved memory (1 trial)"]


def test_nothing_measured_is_no_figure(found: Findings, tmp_path: Path) -> None:
    bare = Findings({number: replace(record, measured=None) for number, record in found.records.items()})
    assert draw(bare, tmp_path) == []
    assert list(tmp_path.iterdir()) == []
