"""Memory, compute, time and quality of each method of a comparison, as bars beside one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsr_explorer.report import style
from bsr_explorer.report.comparison.line import NOT_RUN
from bsr_explorer.report.figures.axes import SMALL, plain_ticks, wrapped
from bsr_explorer.store.comparison_folder import Comparison
from bsr_explorer.units import format_number, in_mb

if TYPE_CHECKING:
    from bsr_explorer.report.comparison.line import Line

Value = Callable[["Line"], float | None]


def draw(comparison: Comparison, lines: Sequence[Line], folder: Path) -> list[Path]:
    """A panel a quantity and a bar a method, with its value; what is not known says why.

    In brackets: full fine-tuning's memory or compute over the method's.
    """
    full = comparison.full
    seeds = f",\n± over {comparison.seeds} seeds" if comparison.seeds > 1 else ""
    panels: list[tuple[str, Value, int, float | None]] = [
        ("peak memory (MB)", lambda line: in_mb(line.entry.peak_bytes), 0, in_mb(full.peak_bytes)),
        (
            "training GFLOPs\na step",
            lambda line: line.entry.train_flops / 1e9,
            0,
            full.train_flops / 1e9,
        ),
        ("time of a step (s)", lambda line: line.step_seconds, 2, None),
        (f"{comparison.protocol.axis(comparison.quality)}{seeds}", drawn, comparison.quality.decimals, None),
    ]
    called = names(lines)
    row = 0.11 + 0.1 * max(1 + name.count("\n") for name in called)
    with style.figure(7.2, 0.75 + row * len(lines), ncols=len(panels), sharey=True) as (fig, axes):
        for panel, (label, value, decimals, reference) in zip(axes, panels, strict=True):
            bars(panel, lines, value, decimals, reference)
            panel.set_xlabel(label)
        axes[0].set_yticks(range(len(lines)), called)
        axes[0].set_ylim(len(lines) - 0.4, -0.6)
        for panel in axes[1:]:
            panel.tick_params(left=False)
        return style.save(fig, folder, "bars")


def names(lines: Sequence[Line]) -> list[str]:
    """What methods are called beside their bars, in lines that break between arguments."""
    return [wrapped(line.entry.label.replace(": ", ":\u00a0"), 32) for line in lines]


def bars(panel: Any, lines: Sequence[Line], value: Value, decimals: int, reference: float | None) -> None:
    """A bar a method from top to bottom, with its value, or why there is none.

    Args:
        decimals: of the value, at least; see ``format_number``.
        reference: what stands in brackets over the value, as a ratio, if anything.
    """
    known = {place: size for place, line in enumerate(lines) if (size := value(line)) is not None}
    if not known:
        say_not_run(panel)
        return
    colours = [style.look(lines[place].entry.method)[0] for place in known]
    panel.barh(list(known), list(known.values()), height=0.7, color=colours)
    most = max(known.values())
    for place, line in enumerate(lines):
        size = known.get(place)
        said = _absent(line) if size is None else format_number(size, decimals)
        if size and reference:
            said += f" ({times(reference / size)})"
        spread = line.quality.scale * (line.deviation or 0.0) if value is drawn else 0.0
        if size and spread:
            panel.errorbar(size, place, xerr=spread, fmt="none", ecolor="0.3", lw=1, capsize=2)
        grey = "0.45" if size is None else style.BLACK
        end = (size or 0.0) + spread + 0.03 * most
        panel.text(end, place, said, va="center", fontsize=SMALL, color=grey)
    panel.set_xlim(0, 1.75 * most if reference else 1.4 * most)
    panel.locator_params(axis="x", nbins=4)
    plain_ticks(panel)
    panel.grid(axis="x", alpha=0.25, lw=0.5)


def times(ratio: float) -> str:
    """``4.10×``, and a large ratio without what nobody reads."""
    return f"{format_number(ratio, 0 if ratio >= 100 else 2)}×"


def _absent(line: Line) -> str:
    return "not timed" if line.scores else line.status


def say_not_run(panel: Any) -> None:
    """Say in a panel that there is nothing to show."""
    absent = {"ha": "center", "va": "center", "color": "0.45", "style": "italic"}
    panel.text(0.5, 0.5, NOT_RUN, transform=panel.transAxes, **absent)
    panel.set_xticks([])


def drawn(line: Line) -> float | None:
    """Mean accuracy of a method, in percent, or its mean perplexity."""
    return line.drawn
