"""What several figures' axes have in common."""

from __future__ import annotations

import textwrap
from typing import Any

from bsr_explorer.report import style
from bsr_explorer.report.findings import Findings
from bsr_explorer.units import in_mb

MEMORY_AXIS: dict[str, str] = {
    "peak": "peak memory of a training step (MB)",
    "saved": "saved activations of a training step (MB)",
    "published": "memory by the BSR paper's accounting (MB)",
}
"""What a budget's accounting is called on an axis."""

SMALL = "small"
"""Size of text within a figure."""


def plain_ticks(axes: Any) -> None:
    """Numbers such as 200 on logarithmic axes, instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_minor_formatter(NullFormatter())


def budget_line(axes: Any, found: Findings, upright: bool = True) -> None:
    """The budget, across or upright."""
    line = axes.axvline if upright else axes.axhline
    line(in_mb(found.budget), color=style.BLACK, lw=1, ls="--", label=f"budget {found.study['budget']}")


def accuracy_label(found: Findings) -> str:
    """What an axis of accuracy says."""
    return "validation accuracy (%)" + (f", ± over {found.seeds} seeds" if found.seeds > 1 else "")


def wrapped(label: str, width: int = 26) -> str:
    """An expression in lines of so many characters, broken before a ``+`` where there is one."""
    lines = textwrap.wrap(label.replace("+", "+ "), width, break_long_words=False)
    return "\n".join(line.replace("+ ", "+") for line in lines)
