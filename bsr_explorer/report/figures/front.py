"""Accuracy, or another quality, against memory: every configuration, the front, the budget, and full fine-tuning."""

from __future__ import annotations

from pathlib import Path

from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import MEMORY_AXIS, budget_line, plain_ticks, quality_label
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.units import format_number, in_mb


def draw(found: Findings, folder: Path) -> list[Path]:
    """All configurations, the front as a step line, the budget, and full fine-tuning as the reference.

    Means over several seeds have their standard deviation as an error bar.
    """
    full = in_mb(found.full["counted_bytes"])
    with style.figure(5.8, 3.0) as (fig, axes):
        xs, ys = [in_mb(p.bytes) for p in found.front], [p.drawn for p in found.front]
        ends = [*xs, max(in_mb(found.budget), xs[-1])], [*ys, ys[-1]]
        axes.step(*ends, where="post", color="0.55", lw=1, zorder=1, label="front")
        for name in sorted({style.family(p.method) for p in found.points}, key=style.order):
            members = [p for p in found.points if style.family(p.method) == name]
            colour, marker = style.look(name)
            places = [in_mb(p.bytes) for p in members], [p.drawn for p in members]
            axes.scatter(*places, c=colour, marker=marker, s=26, label=name, zorder=3)
            for p in members:
                if p.deviation:
                    where = (in_mb(p.bytes), p.drawn, p.spread)
                    axes.errorbar(*where, ecolor=colour, fmt="none", lw=1, capsize=2, zorder=2)
        budget_line(axes, found)
        axes.axvline(
            full, color=style.VERMILION, lw=1, ls=":", label=f"full fine-tuning, {format_number(full)} MB"
        )
        axes.set_xscale("log")
        plain_ticks(axes)
        axes.set_xlabel(MEMORY_AXIS[found.study["counts"]])
        axes.set_ylabel(quality_label(found))
        axes.grid(alpha=0.25, lw=0.5)
        fig.legend(loc="outside right upper", frameon=False)
        return style.save(fig, folder, "front")
