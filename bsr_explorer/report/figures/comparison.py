"""Accuracy, or another quality, of each method of a comparison against its memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import MEMORY_AXIS, SMALL, plain_ticks, wrapped
from bsr_explorer.report.figures.labels import Label, place
from bsr_explorer.store.comparison_folder import Comparison
from bsr_explorer.units import in_mb

if TYPE_CHECKING:
    from bsr_explorer.report.comparison.line import Line


def draw(comparison: Comparison, lines: Sequence[Line], folder: Path) -> list[Path]:
    """Mean accuracy ± standard deviation of each method against what the budget counts of it, and the budget.

    Methods without an accuracy stand on the memory axis, with the reason.
    """
    quality = comparison.quality
    known = [line for line in lines if line.score is not None]
    with style.figure(5.2, 3.4) as (fig, axes):
        labels = []
        for line in known:
            x, y = in_mb(line.entry.counted_bytes), line.drawn or 0.0
            spread = quality.scale * (line.deviation or 0.0)
            colour, marker = style.look(line.entry.method)
            axes.errorbar(x, y, yerr=spread or None, c=colour, marker=marker, ms=5, lw=1, capsize=2, zorder=3)
            labels.append(Label(x, y, wrapped(line.entry.label), spread))
        _set_limits(axes, comparison, lines, labels)
        floor = axes.get_ylim()[0]
        for line in lines:
            if line.score is None:
                x = in_mb(line.entry.counted_bytes)
                colour, marker = style.look(line.entry.method)
                axes.plot(x, floor, mfc="none", mec=colour, marker=marker, ms=5, clip_on=False, zorder=4)
                labels.append(Label(x, floor, wrapped(f"{line.entry.label}: {line.status}")))
        taken = []
        if comparison.budget_bytes is not None:
            budget = in_mb(comparison.budget_bytes)
            taken.append(axes.axvline(budget, color=style.BLACK, lw=1, ls="--"))
            above = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom", "fontsize": SMALL}
            axes.annotate(f"budget {comparison.budget}", (budget, 1.0), **above)
        axes.set_xlabel(MEMORY_AXIS[comparison.counts])
        seeds = f", {comparison.seeds} seeds" if comparison.seeds > 1 else ""
        axes.set_ylabel(f"{comparison.protocol.axis(quality)}{seeds}")
        axes.grid(alpha=0.25, lw=0.5)
        place(fig, axes, sorted(labels, key=lambda label: (label.x, label.y)), taken)
        return style.save(fig, folder, "comparison")


def _set_limits(axes: Any, comparison: Comparison, lines: Sequence[Line], labels: Sequence[Label]) -> None:
    """Room around all points for their labels; memory on a logarithmic axis."""
    sizes = [in_mb(line.entry.counted_bytes) for line in lines]
    sizes += [] if comparison.budget_bytes is None else [in_mb(comparison.budget_bytes)]
    whole = comparison.quality.scale
    ends = [end for label in labels for end in (label.y - label.spread, label.y + label.spread)] or [
        0.0,
        whole,
    ]
    room = 0.15 * max(max(ends) - min(ends), 0.02 * whole)
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.8)
    axes.set_ylim(min(ends) - 2 * room, max(ends) + room)
    plain_ticks(axes)
