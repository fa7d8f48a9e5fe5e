"""Predicted against measured, as the trials were trained."""

from __future__ import annotations

from pathlib import Path

from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import plain_ticks
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.units import in_mb, plural

_KINDS_SHOWN = ((style.BLUE, "o"), (style.ORANGE, "^"))


def draw(found: Findings, folder: Path) -> list[Path]:
    """Peak and saved memory of every trial; nothing if none was measured."""
    measured = [r.measured for r in found.records.values() if r.measured]
    pairs = {
        kind: [
            (in_mb(m[f"predicted_{kind}_bytes"]), in_mb(m[f"{kind}_bytes"]))
            for m in measured
            if f"predicted_{kind}_bytes" in m
        ]
        for kind in ("peak", "saved")
    }
    faults = [(in_mb(m["predicted_peak_bytes"]), in_mb(m["peak_bytes"])) for m in measured if "fault" in m]
    everything = [value for pair in pairs.values() for both in pair for value in both]
    if not everything:
        return []
    with style.figure(3.4, 3.0) as (fig, axes):
        ends = [0.9 * min(everything), 1.1 * max(everything)]
        axes.plot(ends, ends, color="0.6", lw=1, zorder=1)
        for (kind, of_kind), (colour, marker) in zip(pairs.items(), _KINDS_SHOWN, strict=True):
            if of_kind:
                label = f"{kind} memory ({plural(len(of_kind), 'trial')})"
                places = zip(*of_kind, strict=True)
                axes.scatter(*places, c=colour, marker=marker, s=20, label=label, zorder=3)
        if faults:
            label = f"over 2% above the prediction ({len(faults)})"
            rings = {"s": 70, "facecolors": "none", "edgecolors": style.VERMILION}
            axes.scatter(*zip(*faults, strict=True), **rings, label=label, zorder=4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_ticks(axes)
        axes.set_xlabel("predicted, at the size trained (MB)")
        axes.set_ylabel("measured (MB)")
        axes.grid(alpha=0.25, lw=0.5)
        axes.legend(frameon=False)
        return style.save(fig, folder, "calibration")
