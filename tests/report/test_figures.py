"""The figures: what they draw of a study's records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.report import style
from bsr_explorer.report.figures import MEMORY_AXIS, accuracy_against_memory, calibration, memory_by_block
from bsr_explorer.report.front import Point, front, points
from bsr_explorer.store.records import read_records
from bsr_explorer.store.study import COUNTS


@pytest.fixture(scope="module")
def every(finished_once: Path) -> list[Point]:
    return points(read_records(finished_once))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """(figure, axes) of each figure that is made."""
    made: list[tuple[Any, Any]] = []
    real = style.figure

    @contextmanager
    def watched(*size: float, **options: Any) -> Iterator[tuple[Any, Any]]:
        with real(*size, **options) as both:
            made.append(both)
            yield both

    monkeypatch.setattr(style, "figure", watched)
    return made


def offsets(axes: Any) -> set[tuple[float, float]]:
    return {(float(x), float(y)) for drawn in axes.collections for x, y in drawn.get_offsets()}


def test_every_trial_is_a_point(every: list[Point], drawn: list[Any], tmp_path: Path) -> None:
    paths = accuracy_against_memory(every, front(every), tmp_path)
    assert [path.name for path in paths] == ["front.png", "front.pdf"]
    (_, axes), *_ = drawn
    assert offsets(axes) == {(p.bytes / 1e6, 100 * p.accuracy) for p in every}
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "validation accuracy (%)"


def test_the_front_is_a_line_from_least_to_most(every: list[Point], drawn: list[Any], tmp_path: Path) -> None:
    ahead = front(every)
    accuracy_against_memory(every, ahead, tmp_path)
    (line,) = [line for line in drawn[0][1].lines if line.get_label() == "front"]
    assert list(line.get_xdata()) == [*[p.bytes / 1e6 for p in ahead], 1.4]  # to the budget
    assert list(line.get_ydata()) == [*[100 * p.accuracy for p in ahead], 100 * ahead[-1].accuracy]


def test_budget_and_full_fine_tuning_are_marked(every: list[Point], drawn: list[Any], tmp_path: Path) -> None:
    accuracy_against_memory(every, front(every), tmp_path)
    figure, axes = drawn[0]
    upright = {
        line.get_label(): line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1
    }
    assert upright == {
        "budget 1400KB": 1.4,
        "full fine-tuning, 2 MB": every[0].full["counted_bytes"] / 1e6,
    }
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} >= {"front", "linear", "bsr", "last"}


def test_means_have_error_bars(every: list[Point], drawn: list[Any], tmp_path: Path) -> None:
    sure = [replace(every[0], deviation=0.02, seeds=3), replace(every[1], deviation=0.0, seeds=3), *every[2:]]
    accuracy_against_memory(sure, front(sure), tmp_path)
    _, axes = drawn[0]
    (bar,) = axes.containers
    ((low, high),) = [path.vertices[:, 1] for path in bar.lines[2][0].get_paths()]
    assert (low, high) == (
        pytest.approx(100 * every[0].accuracy - 2),
        pytest.approx(100 * every[0].accuracy + 2),
    )
    assert offsets(axes) >= {(p.bytes / 1e6, 100 * p.accuracy) for p in every}
    assert axes.get_ylabel() == "validation accuracy (%), ± over 3 seeds"


@pytest.mark.parametrize("counts", COUNTS)
def test_the_axis_says_what_is_counted(
    every: list[Point], drawn: list[Any], tmp_path: Path, counts: str
) -> None:
    changed = [
        replace(p, record=replace(p.record, study={**p.record.study, "counts": counts})) for p in every
    ]
    accuracy_against_memory(changed, front(changed), tmp_path)
    assert drawn[0][1].get_xlabel() == MEMORY_AXIS[counts]
    assert drawn[0][1].get_xlabel().endswith("(MB)")


def test_one_trial_alone_can_be_drawn(every: list[Point], tmp_path: Path) -> None:
    paths = accuracy_against_memory(every[:1], every[:1], tmp_path) + memory_by_block(every[:1], tmp_path)
    assert all(path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize("count", [1, 4])
def test_each_block_has_its_memory(every: list[Point], drawn: list[Any], tmp_path: Path, count: int) -> None:
    paths = memory_by_block(every[:count], tmp_path)
    assert [path.name for path in paths] == ["memory_by_block.png", "memory_by_block.pdf"]
    _, grid = drawn[0]
    ledgers = [every[0].full, *(p.record.predicted for p in every[:count])]
    assert len(grid[:, 0]) == len(ledgers)
    for axes, ledger in zip(grid[:, 0], ledgers, strict=True):
        assert heights(axes, 5) == pytest.approx(
            [
                sum(v for k, v in block.items() if k in style.KIND) / 1e6
                for block in ledger["by_block"].values()
            ]
        )
        assert sum(heights(axes, 5)) == pytest.approx(ledger["held_bytes"] / 1e6)
    names = [text.get_text() for text in grid[-1, 0].get_xticklabels()]
    assert names == ["0", "1", "2", "3", "rest"]


def heights(axes: Any, bars: int) -> Sequence[float]:
    """Height of each stack."""
    return [sum(patch.get_height() for patch in axes.patches[bar::bars]) for bar in range(bars)]


def test_a_long_method_does_not_run_out_of_the_page(
    every: list[Point], drawn: list[Any], tmp_path: Path
) -> None:
    long = "bsr(blocks=(" + ", ".join(map(str, range(99))) + "), keep={})"
    point = replace(every[0], record=replace(every[0].record, config={"method": long}))
    memory_by_block([point], tmp_path)
    figure, grid = drawn[0]
    titles = [text for axes in grid[:, 0] for text in axes.texts]
    assert len(titles) == 2
    for text in titles:
        assert len(text.get_text()) < 120
        assert text.get_window_extent().x1 < figure.get_window_extent().x1


# --- predicted against measured -------------------------------------------------------------------------


def measured_of(every: list[Point]) -> list[dict[str, Any]]:
    return [p.record.measured for p in every if p.record.measured is not None]


def test_peak_and_saved_memory_of_every_trial_are_points(
    every: list[Point], drawn: list[Any], tmp_path: Path
) -> None:
    paths = calibration([p.record for p in every], tmp_path)
    assert [path.name for path in paths] == ["calibration.png", "calibration.pdf"]
    (_, axes), *_ = drawn
    assert len(measured_of(every)) == 7
    assert offsets(axes) == {
        (m[f"predicted_{kind}_bytes"] / 1e6, m[f"{kind}_bytes"] / 1e6)
        for m in measured_of(every)
        for kind in ("peak", "saved")
    }
    (line,) = axes.lines
    assert list(line.get_xdata()) == list(line.get_ydata())
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["peak memory (7 trials)", "saved memory (7 trials)"]


def test_faults_are_marked(every: list[Point], drawn: list[Any], tmp_path: Path) -> None:
    record = every[0].record
    assert record.measured is not None
    high = {**record.measured, "peak_bytes": 2 * record.measured["predicted_peak_bytes"], "fault": "too high"}
    calibration([replace(record, measured=high), every[1].record], tmp_path)
    (_, axes), *_ = drawn
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[-1] == "over 2% above the prediction (1)"
    assert (high["predicted_peak_bytes"] / 1e6, high["peak_bytes"] / 1e6) in offsets(axes)


def test_a_trial_without_a_whole_batch_has_no_peak_to_show(
    every: list[Point], drawn: list[Any], tmp_path: Path
) -> None:
    record = every[0].record
    assert record.measured is not None
    little = {key: value for key, value in record.measured.items() if "peak" not in key}
    calibration([replace(record, measured=little)], tmp_path)
    assert [text.get_text() for text in drawn[0][1].get_legend().get_texts()] == ["saved memory (1 trials)"]


def test_nothing_measured_is_no_figure(every: list[Point], tmp_path: Path) -> None:
    assert calibration([replace(p.record, measured=None) for p in every], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
