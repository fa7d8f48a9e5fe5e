"""Memory over one training step: what is alive while forward, backward and the optimiser run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bsr_explorer.cost.holders import Level
from bsr_explorer.prediction import over_time
from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import SMALL, plain_ticks
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.units import format_number, in_mb

PHASES = {"standing": "before it", "forward": "forward", "backward": "backward", "optimizer": "optimiser"}


def draw(found: Findings, folder: Path) -> list[Path]:
    """The recommended configuration below full fine-tuning; operations in order, and the peak marked.

    The levels are the cost model's, at the configuration's own image size; the highest is the predicted peak.
    """
    if found.unknown:
        return []
    config = found.config
    panels = {
        "full fine-tuning": over_time(config.with_method("full")),
        textwrap.shorten(str(config.method), 90): over_time(config),
    }
    with style.figure(5.8, 4.0, nrows=len(panels), sharey=True, squeeze=False) as (fig, grid):
        for axes, (title, course) in zip(grid[:, 0], panels.items(), strict=True):
            _stack(axes, course)
            _mark_peak(axes, course)
            _mark_phases(axes, course)
            axes.text(0.0, 1.02, title, transform=axes.transAxes, fontsize=SMALL, va="bottom")
        grid[-1, 0].set_xlabel("operations of one training step, in order")
        fig.supylabel("memory that is alive (MB)", fontsize="medium")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        return style.save(fig, folder, "memory_over_a_step")


def _stack(axes: Any, course: Sequence[Level]) -> None:
    """Stacked levels, each an operation wide."""
    edges = range(len(course) + 1)
    base = [0.0] * len(course)
    for kind, (colour, label) in style.ALIVE.items():
        top = [low + in_mb(level.alive.get(kind, 0)) for low, level in zip(base, course, strict=True)]
        axes.stairs(top, edges, baseline=base, fill=True, color=colour, lw=0, label=label)
        base = top
    axes.set_xlim(0, len(course) * 1.04)
    plain_ticks(axes)


def _mark_peak(axes: Any, course: Sequence[Level]) -> None:
    """The first of the fullest operations, with what it holds."""
    at = max(range(len(course)), key=lambda place: course[place].bytes)
    most, (phase, block, operation) = in_mb(course[at].bytes), course[at].moment
    axes.plot(at + 0.5, most, marker="v", color=style.VERMILION, ms=5, clip_on=False, zorder=4)
    where = PHASES[phase] + (f" of {operation}" if block is None else f" of block {block}")
    left = at > len(course) / 2
    axes.annotate(
        f"peak {format_number(most)} MB, {where}",
        (at + 0.5, most),
        xytext=(-6 if left else 6, 3),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom",
        fontsize=SMALL,
    )


def _mark_phases(axes: Any, course: Sequence[Level]) -> None:
    """Lines between the phases, and their names: below the axis, or along the line where there is no room."""
    ticks = {}
    for phase, place, count in _phases(course):
        if phase == "standing":
            continue
        axes.axvline(place, color="0.3", lw=0.6, ls=":")
        if count > len(course) * ROOM:
            ticks[place + count / 2] = PHASES[phase]
        else:
            along = {"rotation": 90, "ha": "right", "va": "top", "fontsize": SMALL}
            axes.text(place, 0.98, PHASES[phase], transform=axes.get_xaxis_transform(), **along)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="x", length=0)


ROOM = 0.15
"""The share of a step that a phase has to take for its name to fit below it."""


def _phases(course: Sequence[Level]) -> list[tuple[str, int, int]]:
    """Each phase with the operation that it begins at, and how many it has."""
    made, place = [], 0
    for phase, levels in groupby(course, key=lambda level: level.moment.phase):
        count = len(list(levels))
        made.append((phase, place, count))
        place += count
    return made
