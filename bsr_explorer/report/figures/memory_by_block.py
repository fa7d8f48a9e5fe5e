"""Memory of each block stacked by kind, a panel a configuration."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import SMALL
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.units import format_mb, in_mb


def draw(found: Findings, folder: Path) -> list[Path]:
    """Full fine-tuning first, then points of the front; all on one scale."""
    panels = [("full fine-tuning", found.full)]
    panels += [(f"{p.method}  ({p.quality.text(p.score)})", p.record.predicted) for p in found.spread]
    height, shared = 1.25 * len(panels) + 0.5, {"sharex": True, "sharey": True, "squeeze": False}
    with style.figure(5.5, height, nrows=len(panels), **shared) as (fig, grid):
        for axes, (label, ledger) in zip(grid[:, 0], panels, strict=True):
            _stack(axes, ledger["by_block"])
            title = f"{textwrap.shorten(label, 75)}: {format_mb(ledger['held_bytes'], 0)} MB, at the peak "
            title += f"{format_mb(ledger['peak_bytes'], 0)} MB"
            axes.text(0.0, 1.03, title, transform=axes.transAxes, fontsize=SMALL, va="bottom")
            axes.grid(axis="y", alpha=0.25, lw=0.5)
        fig.supylabel("memory (MB)", fontsize="medium")
        grid[-1, 0].set_xlabel("block (0-based); rest: embeddings, final norm, head, input")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        return style.save(fig, folder, "memory_by_block")


def _stack(axes: Any, by_block: dict[str, dict[str, int]]) -> None:
    names = list(by_block)
    base = [0.0] * len(names)
    for kind, (colour, label) in style.KIND.items():
        heights = [in_mb(by_block[name].get(kind, 0)) for name in names]
        axes.bar(names, heights, bottom=base, color=colour, edgecolor="white", lw=0.3, label=label)
        base = [low + height for low, height in zip(base, heights, strict=True)]
