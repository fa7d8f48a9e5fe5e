"""Memory against batch size for each method, and the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bsr_explorer.config import Config
from bsr_explorer.prediction import counted_bytes
from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import MEMORY_AXIS, budget_line, plain_ticks
from bsr_explorer.report.front import Point
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.units import in_mb

SIZES = tuple(2**power for power in range(10))
"""Images a step."""


def draw(found: Findings, folder: Path) -> list[Path]:
    """Full fine-tuning and the best configuration of each method that the front has; exact at each marker."""
    if found.unknown:
        return []
    best: dict[str, Point] = {}
    for point in found.front:  # of which later ones are better
        best[style.family(point.method)] = point
    configs = [Config.from_dict(point.record.config) for point in best.values()]
    if "full" not in best:
        configs.insert(0, configs[0].with_method("full"))
    counts, quantile = found.study["counts"], found.study.get("quantile", 1.0)
    with style.figure(5.8, 3.0) as (fig, axes):
        for config in configs:
            sizes = [size for size in SIZES if not size % config.micro_batches]
            held = [
                in_mb(counted_bytes(replace(config, batch_size=size), counts, quantile)) for size in sizes
            ]
            colour, marker = style.look(str(config.method))
            name = style.family(str(config.method))
            axes.plot(sizes, held, color=colour, marker=marker, ms=4, lw=1, label=name)
        budget_line(axes, found, upright=False)
        axes.axvline(found.config.batch_size, color="0.6", lw=1, ls=":", label="batch of the study")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        plain_ticks(axes)
        axes.set_xticks(SIZES, map(str, SIZES))
        axes.set_xlabel("images a step")
        axes.set_ylabel(MEMORY_AXIS[counts].replace(" of a training step", ""))
        axes.grid(alpha=0.25, lw=0.5)
        fig.legend(loc="outside right upper", frameon=False)
        return style.save(fig, folder, "batch_size")
