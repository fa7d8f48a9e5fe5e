"""Ablations: accuracy and memory against the keep rate, and against the trained blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsr_explorer.config import HELD_OUT, Protocol
from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import plain_ticks
from bsr_explorer.report.figures.bars import Value, bars, drawn, say_not_run
from bsr_explorer.units import in_mb

if TYPE_CHECKING:
    from bsr_explorer.report.comparison.line import Line

LOOKS = (("-", "o", None), ("--", "s", "none"))
"""Stroke, marker and its face, of each series: those that lie over others are hollow."""


def _panels(protocol: Protocol) -> dict[str, Value]:
    """Each panel: its axis, and what it shows of a method."""
    return {
        "peak memory (MB)": lambda line: in_mb(line.entry.peak_bytes),
        "training GFLOPs a step": lambda line: line.entry.train_flops / 1e9,
        protocol.axis(): drawn,
    }


def keep_rates(
    series: Mapping[str, Mapping[float, Line]], full: Line, folder: Path, protocol: Protocol = HELD_OUT
) -> list[Path]:
    """Memory, compute and accuracy against the keep rate, and full fine-tuning as a line across.

    Args:
        series: by label, and by keep rate.
        protocol: how accuracies came about.
    """
    colour, panels = style.look("bsr")[0], _panels(protocol)
    with style.figure(7.0, 2.3, ncols=len(panels)) as (fig, axes):
        for panel, (label, value) in zip(axes, panels.items(), strict=True):
            panel.set_xlabel("keep rate")
            panel.set_ylabel(label)
            seen = 0
            for (name, lines), (stroke, marker, face) in zip(series.items(), LOOKS, strict=False):
                known = {rate: size for rate, line in lines.items() if (size := value(line)) is not None}
                if known:
                    size = 3.5 if face is None else 6
                    points = {"marker": marker, "mfc": face or colour, "ms": size}
                    panel.plot(*_sorted(known), c=colour, ls=stroke, lw=1, label=name, **points)
                seen += len(known)
            if not seen:
                say_not_run(panel)
                panel.set_yticks([])
                continue
            whole = value(full)
            if whole is not None:
                panel.axhline(whole, color=style.look("full")[0], lw=1, ls="-.", label="full fine-tuning")
            panel.set_ylim(bottom=0)
            plain_ticks(panel)
            panel.set_xticks(sorted({rate for lines in series.values() for rate in lines}))
            panel.grid(alpha=0.25, lw=0.5)
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        return style.save(fig, folder, "keep_rates")


def trained_blocks(
    chosen: Mapping[tuple[int, ...], Line],
    full: Line,
    depth: int,
    folder: Path,
    protocol: Protocol = HELD_OUT,
) -> list[Path]:
    """Which blocks train, a row a choice, and what that costs and comes to.

    In brackets: full fine-tuning's memory or compute over the choice's.

    Args:
        chosen: by 0-based indices of the blocks.
        depth: blocks of the model.
        protocol: how accuracies came about.
    """
    lines, panels = list(chosen.values()), _panels(protocol)
    ratios = {"width_ratios": [1.5, *[1] * len(panels)]}
    with style.figure(
        7.2, 0.8 + 0.21 * len(lines), ncols=1 + len(panels), sharey=True, gridspec_kw=ratios
    ) as (fig, axes):
        _squares(axes[0], list(chosen), depth)
        for panel, (label, value) in zip(axes[1:], panels.items(), strict=True):
            costs = value is not drawn
            bars(panel, lines, value, 0 if costs else 1, value(full) if costs else None)
            panel.set_xlabel(label)
            panel.tick_params(left=False)
        return style.save(fig, folder, "trained_blocks")


def _squares(panel: Any, choices: Sequence[tuple[int, ...]], depth: int) -> None:
    """A row a choice and a column a block; filled are those that train."""
    colour = style.look("bsr")[0]
    for row, blocks in enumerate(choices):
        for block in range(depth):
            face = colour if block in blocks else "none"
            panel.plot(block, row, marker="s", ms=6, mfc=face, mec="0.7", mew=0.5)
    panel.set_xticks(range(depth))
    panel.set_yticks([])
    panel.set_xlim(-0.6, depth - 0.4)
    panel.set_ylim(len(choices) - 0.4, -0.6)
    panel.set_xlabel("blocks that train (0-based)")
    for side in ("left", "bottom"):
        panel.spines[side].set_visible(False)
    panel.tick_params(length=0)


def _sorted(known: Mapping[float, float]) -> tuple[list[float], list[float]]:
    rates = sorted(known)
    return rates, [known[rate] for rate in rates]
