"""A study's findings, and what a figure has drawn of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.ticker import FixedLocator

from bsr_explorer.report import style
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.records import Record, read_records


@pytest.fixture(scope="module")
def found(finished_once: Path) -> Findings:
    return Findings(read_records(finished_once))


@pytest.fixture(scope="module")
def sure(found: Findings) -> Findings:
    """The same, with two fresh seeds of the first trial, five points apart."""
    return Findings(
        found.records | {7: fresh(found.records[0], 1, 0.20), 8: fresh(found.records[0], 2, 0.25)}
    )


def fresh(record: Record, replica: int, accuracy: float) -> Record:
    """A run of the same configuration on a fresh seed."""
    return replace(record, accuracy=accuracy, seed=replica, study={**record.study, "replica": replica})


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


def check_readable(figure: Any) -> None:
    """Each tick that is a number says its own, there are three of them at least, and no word is cut."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    beyond: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            labels = [(tick.get_loc(), tick.label1) for tick in axis.get_major_ticks()]
            beyond |= {label for place, label in labels if not low <= place <= high}
            ticks = [
                (place, label.get_text())
                for place, label in labels
                if label.get_text() and label.get_visible() and label not in beyond
            ]
            try:
                said = [float(text.replace(",", "").replace("\N{MINUS SIGN}", "-")) for _, text in ticks]
            except ValueError:  # names
                continue
            assert said == pytest.approx([place for place, _ in ticks]), ticks
            assert not ticks or len(ticks) >= 3 or isinstance(axis.get_major_locator(), FixedLocator), ticks
    page = figure.bbox.padded(1)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in beyond:
            box = text.get_window_extent()
            assert page.x0 <= box.x0 and box.x1 <= page.x1, text
            assert page.y0 <= box.y0 and box.y1 <= page.y1, text


def offsets(axes: Any) -> set[tuple[float, float]]:
    """Where an axes' markers are."""
    return {(float(x), float(y)) for drawn in axes.collections for x, y in drawn.get_offsets()}


def marks(axes: Any) -> set[tuple[float, float]]:
    """Where an axes' lines have markers."""
    return {
        (float(x), float(y))
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if line.get_marker() not in ("None", None, "_")
    }
