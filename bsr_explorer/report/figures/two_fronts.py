"""The fronts of two studies in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import MEMORY_AXIS, plain_ticks
from bsr_explorer.units import in_mb

if TYPE_CHECKING:
    from bsr_explorer.report.between.between import Between

LINES = ("-", "--")


def draw(between: Between, folder: Path) -> list[Path]:
    """Each front as a step line with its configurations; those that only one study has are ringed."""
    end = in_mb(between.reference)
    with style.figure(5.2, 3.2) as (fig, axes):
        families = set()
        for place, side in enumerate(between.sides):
            xs, ys = [in_mb(p.bytes) for p in side.front], [p.drawn for p in side.front]
            colour = ("0.25", "0.6")[place]
            ends = [*xs, end], [*ys, ys[-1]]
            axes.step(*ends, where="post", color=colour, ls=LINES[place], lw=1.2, label=side.name, zorder=1)
            for point, x, y in zip(side.front, xs, ys, strict=True):
                family = style.family(point.method)
                fill, marker = style.look(family)
                label = None if family in families else family
                axes.scatter(x, y, c=fill, marker=marker, s=26, label=label, zorder=3)
                families.add(family)
                if point.deviation:
                    axes.errorbar(x, y, point.spread, ecolor=fill, fmt="none", lw=1, capsize=2)
            only = [(in_mb(point.bytes), point.drawn) for point in between.lacking(place)]
            if only:
                ring = {"s": 80, "facecolors": "none", "edgecolors": colour, "lw": 0.8}
                axes.scatter(*zip(*only, strict=True), **ring, zorder=2, label=f"only in {side.name}")
        axes.axvline(end, color=style.BLACK, lw=1, ls=":", label="reference")
        axes.set_xscale("log")
        plain_ticks(axes)
        axes.set_xlabel(MEMORY_AXIS[between.counts])
        axes.set_ylabel(f"validation {between.quality.column}")
        axes.grid(alpha=0.25, lw=0.5)
        fig.legend(loc="outside right upper", frameon=False)
        return style.save(fig, folder, "two_fronts")
