"""A study's figures. They draw what records hold and compute nothing anew."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsr_explorer.report import style
from bsr_explorer.report.front import Point
from bsr_explorer.report.labels import Label, place
from bsr_explorer.store.comparison import Comparison
from bsr_explorer.store.records import Record
from bsr_explorer.units import in_mb

if TYPE_CHECKING:
    from bsr_explorer.report.comparison import Line

MEMORY_AXIS: dict[str, str] = {
    "peak": "peak memory of a training step (MB)",
    "saved": "saved activations of a training step (MB)",
    "published": "memory by the BSR paper's accounting (MB)",
}


def accuracy_against_memory(every: Sequence[Point], ahead: Sequence[Point], folder: Path) -> list[Path]:
    """All configurations, the front as a step line, the budget, and full fine-tuning as the reference.

    Means over several seeds have their standard deviation as an error bar.
    """
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
                for p in members:
                    if p.deviation:
                        where = (in_mb(p.bytes), 100 * p.accuracy, 100 * p.deviation)
                        axes.errorbar(*where, ecolor=colour, fmt="none", lw=1, capsize=2, zorder=2)
        axes.axvline(budget, color=style.BLACK, lw=1, ls="--", label=f"budget {study['budget']}")
        axes.axvline(full, color=style.VERMILION, lw=1, ls=":", label=f"full fine-tuning, {full:,.0f} MB")
        axes.set_xscale("log")
        _plain_ticks(axes)
        axes.set_xlabel(MEMORY_AXIS[study["counts"]])
        seeds = max(p.seeds for p in every)
        axes.set_ylabel("validation accuracy (%)" + (f", ± over {seeds} seeds" if seeds > 1 else ""))
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


def accuracy_by_method(comparison: Comparison, lines: Sequence[Line], folder: Path) -> list[Path]:
    """Mean accuracy ± standard deviation of each method against what the budget counts of it, and the budget.

    Methods without an accuracy stand on the memory axis, with the reason.
    """
    known = [line for line in lines if line.accuracy is not None]
    with style.figure(5.2, 3.4) as (fig, axes):
        labels = []
        for line in known:
            x, y = in_mb(line.entry.counted_bytes), 100 * (line.accuracy or 0.0)
            spread = 100 * (line.deviation or 0.0)
            colour, marker = style.FAMILY.get(style.family(line.entry.method), style.OTHER)
            axes.errorbar(x, y, yerr=spread or None, c=colour, marker=marker, ms=5, lw=1, capsize=2, zorder=3)
            labels.append(Label(x, y, _wrapped(line.entry.label), spread))
        _set_limits(axes, comparison, lines, labels)
        floor = axes.get_ylim()[0]
        for line in lines:
            if line.accuracy is None:
                x = in_mb(line.entry.counted_bytes)
                colour, marker = style.FAMILY.get(style.family(line.entry.method), style.OTHER)
                axes.plot(x, floor, mfc="none", mec=colour, marker=marker, ms=5, clip_on=False, zorder=4)
                labels.append(Label(x, floor, _wrapped(f"{line.entry.label}: {line.status}")))
        taken = []
        if comparison.budget_bytes is not None:
            budget = in_mb(comparison.budget_bytes)
            taken.append(axes.axvline(budget, color=style.BLACK, lw=1, ls="--"))
            above = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom", "fontsize": 6.5}
            axes.annotate(f"budget {comparison.budget}", (budget, 1.0), **above)
        axes.set_xlabel(MEMORY_AXIS[comparison.counts])
        seeds = f", {comparison.seeds} seeds" if comparison.seeds > 1 else ""
        axes.set_ylabel(f"validation accuracy (%){seeds}")
        axes.grid(alpha=0.25, lw=0.5)
        place(fig, axes, sorted(labels, key=lambda label: (label.x, label.y)), taken)
        return style.save(fig, folder, "comparison")


def _set_limits(axes: Any, comparison: Comparison, lines: Sequence[Line], labels: Sequence[Label]) -> None:
    """Room around all points for their labels; memory on a logarithmic axis."""
    sizes = [in_mb(line.entry.counted_bytes) for line in lines]
    sizes += [] if comparison.budget_bytes is None else [in_mb(comparison.budget_bytes)]
    ends = [end for label in labels for end in (label.y - label.spread, label.y + label.spread)] or [
        0.0,
        100.0,
    ]
    room = 0.15 * max(max(ends) - min(ends), 2.0)
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.8)
    axes.set_ylim(min(ends) - 2 * room, max(ends) + room)
    _plain_ticks(axes)


def _wrapped(label: str) -> str:
    lines = textwrap.wrap(label.replace("+", "+ "), 26, break_long_words=False)
    return "\n".join(line.replace("+ ", "+") for line in lines)


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
