"""Labels: each beside its point, over no other label and no point."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from bsr_explorer.report import style
from bsr_explorer.report.figures.labels import Label, place

CROWDED = [
    *(Label(0.50, 0.50, "one"), Label(0.52, 0.50, "another"), Label(0.50, 0.54, "a third", 0.05)),
    *(Label(0.50, 0.50, "the same place"), Label(0.97, 0.5, "at the right end"), Label(0.0, 0.0, "a corner")),
]

PAIRS = [
    *(Label(182.98, 72.47, "bsr+mesa(faithful=False)", 0.8), Label(185.95, 72.73, "bsr+mesa", 0.5)),
    *(Label(240.19, 73.40, "bsr(faithful=False)", 0.5), Label(242.57, 73.67, "bsr", 0.8)),
    *(Label(266.72, 77.27, "last(k=3)", 1.4), Label(120.79, 64.47, "linear", 1.7)),
]
"""Pairs of points that are nearly one: most places of a label are nearer to the other point."""


def boxes(texts: list[Any]) -> list[Any]:
    return [Text.get_window_extent(text) for text in texts]


@pytest.mark.parametrize("labels", [CROWDED, CROWDED[:1], []], ids=["crowded", "one", "none"])
def test_labels_cover_nothing(labels: list[Label]) -> None:
    with style.figure(4, 3) as (fig, axes):
        line = axes.axvline(0.7)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        texts = place(fig, axes, labels, [line])
        fig.draw_without_rendering()
        found = boxes(texts)
        assert [text.get_text() for text in texts] == [label.text for label in labels]
        assert list(axes.texts) == texts
        for one, other in combinations(found, 2):
            assert Bbox.intersection(one, other) is None
        for box in found:
            assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
            assert not any(box.contains(*axes.transData.transform((p.x, p.y))) for p in labels)
            assert Bbox.intersection(box, line.get_window_extent()) is None


def test_of_points_that_are_nearly_one_all_labels_can_be_read() -> None:
    with style.figure(5.2, 3.4) as (fig, axes):
        axes.set(xscale="log", xlim=(80, 3600), ylim=(32, 89))
        texts = place(fig, axes, PAIRS)
        fig.draw_without_rendering()
        assert all(Bbox.intersection(*pair) is None for pair in combinations(boxes(texts), 2))


def test_a_label_alone_is_right_beside_its_point() -> None:
    with style.figure(4, 3) as (fig, axes):
        axes.set(xlim=(0, 1), ylim=(0, 1))
        (text,) = place(fig, axes, [Label(0.5, 0.5, "alone")])
        assert (text.get_ha(), text.get_va(), text.arrow_patch) == ("left", "center", None)


def test_a_label_is_nearest_to_its_own_point() -> None:
    """Right of the first point, its label would be taken for the second's."""
    with style.figure(4, 3) as (fig, axes):
        axes.set(xlim=(0, 1), ylim=(0, 1))
        first, _ = place(fig, axes, [Label(0.50, 0.5, "first"), Label(0.54, 0.5, "second")])
        fig.draw_without_rendering()
        (box,) = boxes([first])
        ends = [axes.transData.transform((x, 0.5))[0] for x in (0.50, 0.54)]
        assert box.x1 < ends[1] or box.y0 > axes.transData.transform((0, 0.5))[1]
