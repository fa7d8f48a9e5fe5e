"""A study's figures. They draw what records hold and compute nothing anew."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bsr_explorer.report import style
from bsr_explorer.report.front import Point
from bsr_explorer.store.records import Record
from bsr_explorer.units import in_mb

MEMORY_AXIS: dict[str, str] = {
    "peak": "peak memory of a training step (MB)",
    "saved": "saved activations of a training step (MB)",
    "published": "memory by the BSR paper's accounting (MB)",
}


def accuracy_against_memory(every: Sequence[Point], ahead: Sequence[Point], folder: Path) -> list[Path]:
    """All trials, the front as a step line, the budget, and full fine-tuning as the reference."""
    study = every[0].record.study
    full, budget = in_mb(every[0].full["counted_bytes"]), in_mb(study["budget_bytes"])
    with style.figure(5.8, 3.0) as (fig, axes):
        xs, ys = [in_mb(p.bytes) for p in ahead], [100 * p.accuracy for p in ahead]
        axes.step(
            [*xs, max(budget, xs[-1])],
            [*ys, ys[-1]],
            where="post",
            color="0.55",
            lw=1,
            zorder=1,
            label="front",
        )
        for name in [*style.FAMILY, "other"]:
            members = [p for p in every if style.family(p.method) == name]
            if members:
                colour, marker = style.FAMILY.get(name, style.OTHER)
                sizes = [in_mb(p.bytes) for p in members]
                axes.scatter(
                    sizes,
                    [100 * p.accuracy for p in members],
                    c=colour,
                    marker=marker,
                    s=26,
                    label=name,
                    zorder=3,
                )
        axes.axvline(budget, color=style.BLACK, lw=1, ls="--", label=f"budget {study['budget']}")
        axes.axvline(full, color=style.VERMILION, lw=1, ls=":", label=f"full fine-tuning, {full:,.0f} MB")
        axes.set_xscale("log")
        _plain_ticks(axes)
        axes.set_xlabel(MEMORY_AXIS[study["counts"]])
        axes.set_ylabel("validation accuracy (%)")
        axes.grid(alpha=0.25, lw=0.5)
        fig.legend(loc="outside right upper", frameon=False)
        return style.save(fig, folder, "front")


def memory_by_block(chosen: Sequence[Point], folder: Path) -> list[Path]:
    """Memory of each block stacked by kind: a panel a configuration, full fine-tuning first."""
    panels = [("full fine-tuning", chosen[0].full)]
    panels += [(f"{p.method}  ({100 * p.accuracy:.1f}%)", p.record.predicted) for p in chosen]
    with style.figure(
        5.5, 1.25 * len(panels) + 0.5, nrows=len(panels), sharex=True, sharey=True, squeeze=False
    ) as (
        fig,
        grid,
    ):
        for axes, (label, ledger) in zip(grid[:, 0], panels, strict=True):
            _stack(axes, ledger["by_block"])
            title = f"{textwrap.shorten(label, 75)}: {in_mb(ledger['held_bytes']):,.0f} MB, at the peak "
            title += f"{in_mb(ledger['peak_bytes']):,.0f} MB"
            axes.text(0.0, 1.03, title, transform=axes.transAxes, fontsize=6.5, va="bottom")
            axes.grid(axis="y", alpha=0.25, lw=0.5)
        fig.supylabel("memory (MB)", fontsize=8)
        grid[-1, 0].set_xlabel("block (0-based); rest: embeddings, final norm, head, input")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        return style.save(fig, folder, "memory_by_block")


def calibration(records: Sequence[Record], folder: Path) -> list[Path]:
    """Predicted against measured, as the trials were trained; nothing if none was measured."""
    pairs = {
        kind: [
            (in_mb(r.measured[f"predicted_{kind}_bytes"]), in_mb(r.measured[f"{kind}_bytes"]))
            for r in records
            if r.measured and f"predicted_{kind}_bytes" in r.measured
        ]
        for kind in ("peak", "saved")
    }
    faults = [
        (in_mb(r.measured["predicted_peak_bytes"]), in_mb(r.measured["peak_bytes"]))
        for r in records
        if r.measured and "fault" in r.measured
    ]
    everything = [value for found in pairs.values() for pair in found for value in pair]
    if not everything:
        return []
    with style.figure(3.4, 3.0) as (fig, axes):
        ends = [0.9 * min(everything), 1.1 * max(everything)]
        axes.plot(ends, ends, color="0.6", lw=1, zorder=1)
        for (kind, found), (colour, marker) in zip(pairs.items(), _KINDS_SHOWN, strict=True):
            if found:
                label = f"{kind} memory ({len(found)} trials)"
                axes.scatter(*zip(*found, strict=True), c=colour, marker=marker, s=20, label=label, zorder=3)
        if faults:
            label = f"over 2% above the prediction ({len(faults)})"
            rings = {"s": 70, "facecolors": "none", "edgecolors": style.VERMILION}
            axes.scatter(*zip(*faults, strict=True), **rings, label=label, zorder=4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes)
        axes.set_xlabel("predicted, at the size trained (MB)")
        axes.set_ylabel("measured (MB)")
        axes.grid(alpha=0.25, lw=0.5)
        axes.legend(frameon=False)
        return style.save(fig, folder, "calibration")


_KINDS_SHOWN = ((style.BLUE, "o"), (style.ORANGE, "^"))


def _stack(axes: Any, by_block: dict[str, dict[str, int]]) -> None:
    names = list(by_block)
    base = [0.0] * len(names)
    for kind, (colour, label) in style.KIND.items():
        heights = [in_mb(by_block[name].get(kind, 0)) for name in names]
        axes.bar(names, heights, bottom=base, color=colour, edgecolor="white", lw=0.3, label=label)
        base = [low + height for low, height in zip(base, heights, strict=True)]


def _plain_ticks(axes: Any) -> None:
    """Numbers such as 200 on logarithmic axes, instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_minor_formatter(NullFormatter())
