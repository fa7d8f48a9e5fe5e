"""What memory a configuration saves against what quality it loses, both relative to full fine-tuning."""

from __future__ import annotations

from pathlib import Path

from bsr_explorer.report import style
from bsr_explorer.report.front import Point
from bsr_explorer.report.study.findings import Findings


def draw(found: Findings, folder: Path) -> list[Path]:
    """All configurations; memory of full fine-tuning over theirs, and their accuracy (or perplexity) less its own.

    Where full fine-tuning was not trained, as it does not fit or was not asked for, the best that was stands in
    for it, and the axis says so.
    """
    reference = _full(found)
    zero = reference or max(found.points, key=lambda point: point.score)
    with style.figure(5.2, 2.8) as (fig, axes):
        for name in sorted({style.family(p.method) for p in found.points}, key=style.order):
            members = [p for p in found.points if style.family(p.method) == name]
            colour, marker = style.look(name)
            losses = [zero.quality.scale * (p.value - zero.value) for p in members]
            axes.scatter([p.saving for p in members], losses, c=colour, marker=marker, s=22, label=name)
            for p, loss in zip(members, losses, strict=True):
                if p.deviation:
                    axes.errorbar(p.saving, loss, p.spread, ecolor=colour, fmt="none", lw=1, capsize=2)
        axes.axhline(0, color="0.6", lw=1, zorder=1)
        axes.axvline(1, color="0.6", lw=1, zorder=1)
        axes.set_xlabel("memory of full fine-tuning over this (×)")
        to = "full fine-tuning" if reference else "the best trained\n(full fine-tuning was not)"
        unit = f" ({zero.quality.points})" if zero.quality.points else ""
        axes.set_ylabel(f"{zero.quality.name}, to {to}{unit}")
        axes.grid(alpha=0.25, lw=0.5)
        fig.legend(loc="outside right upper", frameon=False)
        return style.save(fig, folder, "saving")


def _full(found: Findings) -> Point | None:
    """The point of full fine-tuning: that which holds and computes what full fine-tuning is predicted to."""
    same = ("peak_bytes", "saved_bytes", "train_flops")
    return next(
        (p for p in found.points if all(p.record.predicted[key] == found.full[key] for key in same)), None
    )
