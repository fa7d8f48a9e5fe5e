"""Labels beside the points of a figure, placed so that they cover neither points nor one another.

A place is chosen among a few dozen. adjustText, which moves labels apart in steps, leaves some upon their own point's
mark or error bar, and sends others far along lines that cross.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GAP = 5.0
"""Typographic points between a point's centre and its label's nearest edge, at least."""

_SIDES = (
    *(
        (1, 0, "left", "center"),
        (-1, 0, "right", "center"),
        (0, 1, "center", "bottom"),
        (0, -1, "center", "top"),
    ),
    *((1, 1, "left", "bottom"), (-1, 1, "right", "bottom"), (1, -1, "left", "top"), (-1, -1, "right", "top")),
)
"""Where a label may stand: direction from its point, and how its text is aligned."""

_FAR = (1.0, 2.0, 3.5, 5.0, 7.0)
"""How far away, in gaps; the nearest free place is taken."""


@dataclass(frozen=True)
class Label:
    """A text for the point at (x, y), in data coordinates; ``spread`` is the half length of its error bar."""

    x: float
    y: float
    text: str
    spread: float = 0.0


def place(fig: Any, axes: Any, labels: Sequence[Label], taken: Sequence[Any] = ()) -> list[Any]:
    """Write each label at the free place that is nearest to its point; returns the texts.

    The limits of the axes must be final.

    Args:
        taken: other artists that must not be covered.
    """
    fig.draw_without_rendering()  # settles the layout, which the boxes below depend on
    fig.set_layout_engine("none")
    marks = [_mark(axes, label) for label in labels]
    boxes = [*marks, *(artist.get_window_extent().padded(2) for artist in taken)]
    made: list[Any] = []
    for label, own in zip(labels, marks, strict=True):
        texts = [_write(axes, label, far, side) for far in _FAR for side in _SIDES]
        others = [mark for mark in marks if mark is not own]
        costs = [_cost(_box(text), own, others, boxes, axes.bbox) for text in texts]
        best = texts.pop(costs.index(min(costs)))
        for text in texts:
            text.remove()
        best.set_zorder(6 - 0.01 * len(made))  # the line to a later label runs behind an earlier one
        boxes.append(_box(best))
        made.append(best)
    return made


def _box(text: Any) -> Any:
    """The box of an annotation's words alone, without its line."""
    from matplotlib.text import Text

    text.get_window_extent()  # brings the position up to date
    return Text.get_window_extent(text)


def _write(axes: Any, label: Label, far: float, side: tuple[int, int, str, str]) -> Any:
    right, up, horizontal, vertical = side
    _, low = axes.transData.transform((label.x, label.y))
    _, high = axes.transData.transform((label.x, label.y + label.spread))
    bar = 0.0 if right else (high - low) * 72 / axes.figure.dpi  # above or below a point, its error bar is
    line = {"arrowstyle": "-", "lw": 0.5, "color": "0.6", "shrinkA": 0, "shrinkB": 3} if far > 1 else None
    return axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(GAP * far * right, (GAP * far + bar) * up),
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        fontsize=6.5,
        linespacing=1.0,
        arrowprops=line,
        bbox={"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.85},
    )


def _mark(axes: Any, label: Label) -> Any:
    """The box of a point with its error bar."""
    from matplotlib.transforms import Bbox

    half = 0.6 * GAP * axes.figure.dpi / 72
    x, low = axes.transData.transform((label.x, label.y - label.spread))
    _, high = axes.transData.transform((label.x, label.y + label.spread))
    return Bbox.from_extents(x - half, low - half, x + half, high + half)


def _cost(box: Any, own: Any, others: Sequence[Any], boxes: Sequence[Any], inside: Any) -> float:
    """Ten times the area of a label that lies over something else or outside of the axes, and its whole area if another
    point is nearer to it than its own: a label may be taken for another's sooner than it may hide words."""
    from matplotlib.transforms import Bbox

    def common(other: Any) -> float:
        both = Bbox.intersection(box, other)
        return 0.0 if both is None else float(both.width * both.height)

    area = float(box.width * box.height)
    strange = any(_gap(box, other) < _gap(box, own) for other in others)
    return 10 * (sum(map(common, boxes)) + area - common(inside)) + (area if strange else 0.0)


def _gap(box: Any, other: Any) -> float:
    """Distance between two boxes, pixels."""
    across = max(other.x0 - box.x1, box.x0 - other.x1, 0.0)
    up = max(other.y0 - box.y1, box.y0 - other.y1, 0.0)
    return math.hypot(across, up)
