"""The configuration of a front to take, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bsr_explorer.errors import UserError
from bsr_explorer.report.front import Point
from bsr_explorer.store.trials import validation_images
from bsr_explorer.units import format_bytes, format_mb, plural


@dataclass(frozen=True)
class Choice:
    """One point of the front, and why."""

    point: Point
    reason: str


def recommend(ahead: Sequence[Point]) -> Choice:
    """The least memory whose accuracy cannot be told from the best.

    Within one standard error of the best accuracy, which its validation images and its seeds allow.
    """
    best = ahead[-1]
    error = best.standard_error
    chosen = next(point for point in ahead if point.accuracy >= best.accuracy - error)
    share = 1 - chosen.bytes / best.bytes
    if chosen is best:
        return Choice(
            chosen, f"the best accuracy; none with less memory comes within ±{100 * error:.1f} points"
        )
    seeds = f" and {best.seeds} seeds" if best.seeds > 1 else ""
    return Choice(
        chosen,
        f"{chosen.said} is within one standard error (±{100 * error:.1f} points on "
        f"{plural(validation_images(best.record), 'validation image')}{seeds}) of the best, {best.said}, and takes "
        f"{100 * share:.0f}% less memory ({format_mb(chosen.bytes, 0)} against {format_mb(best.bytes, 0)} MB)",
    )


def knee(ahead: Sequence[Point]) -> Choice:
    """The point of the front farthest above the chord between its ends: beyond it, memory buys less.

    Accuracy and the logarithm of memory are each scaled to [0, 1] between the ends, so that the chord is
    the diagonal; of points equally far above it, the one with the least memory is taken. A front of one or
    two points, or one that nowhere rises above its chord, has no knee: the recommendation is taken instead.
    """
    low, high = ahead[0], ahead[-1]

    def above(point: Point) -> float:
        across = math.log(point.bytes / low.bytes) / math.log(high.bytes / low.bytes)
        return (point.accuracy - low.accuracy) / (high.accuracy - low.accuracy) - across

    chosen = max(ahead[1:-1], key=above, default=None)
    if chosen is None or above(chosen) <= 1e-9:  # to rounding
        instead = recommend(ahead)
        return Choice(instead.point, f"the front has no knee; recommended instead: {instead.reason}")
    return Choice(
        chosen,
        f"the knee: farthest above the line from the front's least memory, {low.said} at {format_mb(low.bytes, 0)} MB, "
        f"to its best accuracy, {high.said} at {format_mb(high.bytes, 0)} MB, by the logarithm of memory",
    )


def under(ahead: Sequence[Point], limit: int) -> Choice:
    """The best accuracy that takes at most ``limit`` bytes.

    Raises:
        UserError: nothing does; it names what takes least.
    """
    within = [point for point in ahead if point.bytes <= limit]
    if not within:
        least = ahead[0]
        raise UserError(
            f"nothing that was trained takes at most {format_bytes(limit)}; the nearest is trial "
            f"{least.number}, {least.method}, with {format_bytes(least.bytes)} and {least.said}"
        )
    chosen = within[-1]
    more = next((point for point in ahead if point.bytes > limit), None)
    beyond = f"the next on the front, {more.said}, takes {format_bytes(more.bytes)}" if more else ""
    return Choice(
        chosen,
        f"the best accuracy of what takes at most {format_bytes(limit)}; "
        + (beyond or "nothing that was trained is better"),
    )


def reaching(ahead: Sequence[Point], accuracy: float) -> Choice:
    """The least memory with at least this accuracy, in [0, 1].

    Raises:
        UserError: nothing reaches it; it names the best.
    """
    best = ahead[-1]
    chosen = next((point for point in ahead if point.accuracy >= accuracy), None)
    if chosen is None:
        raise UserError(
            f"nothing that was trained reaches {100 * accuracy:.1f}%; the nearest is trial "
            f"{best.number}, {best.method}, with {best.said} and {format_bytes(best.bytes)}"
        )
    beyond = (
        "nothing that was trained is better"
        if chosen is best
        else f"the best, {best.said}, takes {format_bytes(best.bytes)}"
    )
    return Choice(chosen, f"the least memory that reaches {100 * accuracy:.1f}%; {beyond}")
