"""What several figures' axes have in common."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullFormatter

from bsr_explorer.report import style
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.units import format_round, in_mb

MEMORY_AXIS: dict[str, str] = {
    "peak": "peak memory of a training step (MB)",
    "reserved": "memory that is reserved on the GPU (MB)",
    "device": "memory of the GPU, context estimated (MB)",
    "saved": "saved activations of a training step (MB)",
    "published": "memory by the BSR paper's accounting (MB)",
}
"""What a budget's accounting is called on an axis."""

SMALL = "small"
"""Size of text within a figure."""


class RoundTicks(Locator):
    """Round numbers on a logarithmic axis: as few of a decade as give ``FEWEST`` in all; evenly spread ones where even
    those of a narrow axis are too few."""

    FEWEST = 4
    DECADES = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9))

    def __call__(self) -> list[float]:
        """Where ticks are, within what the axis shows."""
        assert self.axis is not None
        return self.tick_values(*sorted(self.axis.get_view_interval()))

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Where ticks are from one end to the other, both positive."""
        powers = range(math.floor(math.log10(vmin)), math.ceil(math.log10(vmax)) + 1)
        for factors in self.DECADES:
            ticks = [factor * 10.0**power for power in powers for factor in factors]
            within = [tick for tick in ticks if vmin <= tick <= vmax]
            if len(within) >= self.FEWEST:
                return within
        spread = MaxNLocator(nbins=8, steps=[1, 2, 5, 10]).tick_values(vmin, vmax)
        return [float(tick) for tick in spread if vmin <= tick <= vmax]


def plain_ticks(axes: Any) -> None:
    """Numbers as they are, such as 0.5 and 2,000, and on logarithmic axes round ones instead of powers of ten."""
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_round(value)))
        if scale == "log":
            axis.set_major_locator(RoundTicks())
            axis.set_minor_formatter(NullFormatter())


def budget_line(axes: Any, found: Findings, upright: bool = True) -> None:
    """The budget, across or upright."""
    line = axes.axvline if upright else axes.axhline
    line(in_mb(found.budget), color=style.BLACK, lw=1, ls="--", label=f"budget {found.study['budget']}")


def quality_label(found: Findings) -> str:
    """What an axis of accuracy, or of another quality, says."""
    return f"validation {found.quality.column}" + (f", ± over {found.seeds} seeds" if found.seeds > 1 else "")


def wrapped(label: str, width: int = 26) -> str:
    """An expression in lines of so many characters, broken before a ``+`` where there is one."""
    lines = textwrap.wrap(label.replace("+", "+ "), width, break_long_words=False)
    return "\n".join(line.replace("+ ", "+") for line in lines)
