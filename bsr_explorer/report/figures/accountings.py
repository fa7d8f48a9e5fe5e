"""Memory of each method by the published accounting, and in truth, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import SMALL, plain_ticks
from bsr_explorer.report.figures.bars import names, times
from bsr_explorer.store.comparison_folder import Comparison
from bsr_explorer.units import format_mb, in_mb

if TYPE_CHECKING:
    from bsr_explorer.report.comparison.line import Line

SHOWN: dict[str, tuple[str, str]] = {
    "published_bytes": ("published accounting (always 32 bits)", style.ORANGE),
    "saved_bytes": ("truth: saved activations", style.SKY),
    "peak_bytes": ("truth: peak of a step", style.BLUE),
}
"""Each accounting: its label and its colour."""


def draw(comparison: Comparison, lines: Sequence[Line], folder: Path) -> list[Path]:
    """Three bars a method with their values, and in brackets full fine-tuning's over them.

    A dash stands for what the published accounting has no rule for.
    """
    height = 0.8 / len(SHOWN)
    with style.figure(5.6, 0.8 + 0.42 * len(lines)) as (fig, axes):
        for place, (key, (label, colour)) in enumerate(SHOWN.items()):
            sizes = [getattr(line.entry, key) for line in lines]
            ys = [row + (place - 1) * height for row in range(len(lines))]
            axes.barh(ys, [in_mb(size or 0) for size in sizes], height=height, color=colour, label=label)
            whole = getattr(comparison.full, key)
            for y, size in zip(ys, sizes, strict=True):
                said = (
                    "— (no rule)"
                    if size is None
                    else format_mb(size, 0) + (f" ({times(whole / size)})" if size else "")
                )
                shift = {"xytext": (2, 0), "textcoords": "offset points", "va": "center"}
                axes.annotate(said, (in_mb(size or 0), y), fontsize=SMALL, **shift)
        plain_ticks(axes)
        axes.set_yticks(range(len(lines)), names(lines))
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.margins(x=0.2)
        axes.set_xlabel("memory (MB); in brackets: full fine-tuning’s over it")
        axes.grid(axis="x", alpha=0.25, lw=0.5)
        fig.legend(loc="outside upper center", ncols=len(SHOWN), frameon=False)
        return style.save(fig, folder, "accountings")
