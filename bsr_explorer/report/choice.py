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
    """The least memory whose accuracy, or other quality, cannot be told from the best.

    Within one standard error of the best, which its validation images and its seeds allow.
    """
    best = ahead[-1]
    quality, error = best.quality, best.standard_error
    near = quality.error(best.score, error)
    chosen = next(point for point in ahead if point.score >= best.score - error)
    share = 1 - chosen.bytes / best.bytes
    if chosen is best:
        within = f"none with less memory comes within {near}" if error else "none with less memory is as good"
        return Choice(chosen, f"the best {quality.name}; {within}")
    seeds = f" and {best.seeds} seeds" if best.seeds > 1 else ""
    return Choice(
        chosen,
        f"{chosen.said} is within one standard error ({near} on "
        f"{plural(validation_images(best.record), f'validation {quality.judges}')}{seeds}) of the best, {best.said}, "
        f"and takes {100 * share:.0f}% less memory "
        f"({format_mb(chosen.bytes, 0)} against {format_mb(best.bytes, 0)} MB)",
    )


def knee(ahead: Sequence[Point]) -> Choice:
    """The point of the front farthest above the chord between its ends: beyond it, memory buys less.

    Scores (accuracies) and the logarithm of memory are each scaled to [0, 1] between the ends, so that the chord is
    the diagonal; of points equally far above it, the one with the least memory is taken. A front of one or
    two points, or one that nowhere rises above its chord, has no knee: the recommendation is taken instead.
    """
    low, high = ahead[0], ahead[-1]

    def above(point: Point) -> float:
        across = math.log(point.bytes / low.bytes) / math.log(high.bytes / low.bytes)
        return (point.score - low.score) / (high.score - low.score) - across

    chosen = max(ahead[1:-1], key=above, default=None)
    if chosen is None or above(chosen) <= 1e-9:  # to rounding
        instead = recommend(ahead)
        return Choice(instead.point, f"the front has no knee; recommended instead: {instead.reason}")
    return Choice(
        chosen,
        f"the knee: farthest above the line from the front's least memory, {low.said} at {format_mb(low.bytes, 0)} MB, "
        f"to its best {high.quality.name}, {high.said} at {format_mb(high.bytes, 0)} MB, by the logarithm of memory",
    )


def under(ahead: Sequence[Point], limit: int) -> Choice:
    """The best quality that takes at most ``limit`` bytes.

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
        f"the best {chosen.quality.name} of what takes at most {format_bytes(limit)}; "
        + (beyond or "nothing that was trained is better"),
    )


def reaching(ahead: Sequence[Point], value: float) -> Choice:
    """The least memory with at least this accuracy, in [0, 1], or at most this perplexity.

    Raises:
        UserError: nothing reaches it; it names the best.
    """
    best = ahead[-1]
    score = best.quality.score(value)
    said = best.quality.text(score)
    chosen = next((point for point in ahead if point.score >= score), None)
    if chosen is None:
        raise UserError(
            f"nothing that was trained reaches {said}; the nearest is trial "
            f"{best.number}, {best.method}, with {best.said} and {format_bytes(best.bytes)}"
        )
    beyond = (
        "nothing that was trained is better"
        if chosen is best
        else f"the best, {best.said}, takes {format_bytes(best.bytes)}"
    )
    return Choice(chosen, f"the least memory that reaches {said}; {beyond}")
