"""The front of a study and the configuration to take, from its records alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bsr_explorer.errors import UserError
from bsr_explorer.store.folder import no_study
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.units import format_bytes, format_mb, format_number, plural


@dataclass(frozen=True)
class Point:
    """A configuration that was trained to its end: its accuracy and its memory by the study's accounting.

    Attributes:
        number: of the trial that the search chose.
        record: of that trial.
        accuracy: in [0, 1]: the mean over fresh seeds where there are any, else that trial's own. (The
            front is made of the luckiest trials, so that their own accuracies are biased upwards.)
        bytes: memory.
        deviation: sample standard deviation over the fresh seeds, of two at least.
        seeds: how many runs the accuracy is the mean of.
    """

    number: int
    record: Record
    accuracy: float
    bytes: int
    deviation: float | None = None
    seeds: int = 1

    @property
    def method(self) -> str:
        """The method's expression."""
        return self.record.method

    @property
    def said(self) -> str:
        """``81.9%``, or ``81.9 ± 0.3% (3 seeds)``."""
        if self.deviation is None:
            return f"{100 * self.accuracy:.1f}%"
        return f"{100 * self.accuracy:.1f} ± {100 * self.deviation:.1f}% ({self.seeds} seeds)"

    @property
    def standard_error(self) -> float:
        """Of the accuracy: of so many validation images, and of so many seeds."""
        images = validation_images(self.record)
        binomial = self.accuracy * (1 - self.accuracy) / images if images else 0.0
        return math.sqrt(binomial + (self.deviation or 0.0) ** 2 / self.seeds)

    @property
    def full(self) -> dict[str, Any]:
        """The prediction for full fine-tuning of the same model and batch."""
        full: dict[str, Any] = self.record.study["full"]
        return full

    @property
    def saving(self) -> float:
        """Memory of full fine-tuning over this one's."""
        return float(self.full["counted_bytes"]) / self.bytes

    @property
    def compute_saving(self) -> float:
        """Training FLOPs of full fine-tuning over this one's."""
        return float(self.full["train_flops"]) / float(self.record.predicted["train_flops"])


def read_runs(folder: Path) -> dict[int, Record]:
    """The records of a folder by number, be they of a search or not.

    Raises:
        UserError: no records there, or a file that is none.
    """
    if not (folder / "records").is_dir():
        raise no_study(folder, f"{folder} is not the folder of a study (it has no records/)")
    return read_records(folder)


def read_trials(folder: Path) -> dict[int, Record]:
    """The records of a study's folder by trial number.

    Raises:
        UserError: no study there, or a record that is none of a search.
    """
    records = read_runs(folder)
    for number, record in records.items():
        if not record.study:
            stray = f"{folder}/records/{number:04d}.json is not of a search; move it away to go on"
            raise no_study(folder, stray)
    return records


def pick(records: dict[int, Record], number: int) -> Record:
    """The record of one trial.

    Raises:
        UserError: none of that number.
    """
    if number not in records:
        there = f"choose from {spans(records)}" if records else "there is none yet"
        raise UserError(f"TRIAL: {number} has no record; {there}")
    return records[number]


def spans(numbers: Iterable[int]) -> str:
    """``0–6, 9`` of 0, 1, 2, 3, 4, 5, 6 and 9."""
    ends: list[list[int]] = []
    for number in sorted(numbers):
        if ends and ends[-1][1] == number - 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ", ".join(f"{low}" if low == high else f"{low}–{high}" for low, high in ends)


def replica(record: Record) -> int:
    """0 for a trial that the search chose; 1, 2, … for the runs of its configuration on fresh seeds."""
    return int(record.study.get("replica", 0))


def points(records: dict[int, Record]) -> list[Point]:
    """The configurations of a study that were trained to their end, by their first trial."""
    by_key: dict[str, dict[int, Record]] = {}
    for number, record in sorted(records.items()):
        if record.status == "finished" and record.accuracy is not None:
            by_key.setdefault(record.key, {})[number] = record
    return sorted(map(_point, by_key.values()), key=lambda point: point.number)


def _point(runs: dict[int, Record]) -> Point:
    """The point of the finished runs of one configuration."""
    number = min(runs, key=lambda number: (replica(runs[number]), number))
    record = runs[number]
    fresh = [run.accuracy for run in runs.values() if replica(run) and run.accuracy is not None]
    accuracies = fresh or [record.accuracy or 0.0]
    return Point(
        number,
        record,
        mean(accuracies),
        int(record.study["counted_bytes"]),
        stdev(accuracies) if len(accuracies) > 1 else None,
        len(accuracies),
    )


def front(candidates: Iterable[Point]) -> list[Point]:
    """The points that no other beats in memory without losing accuracy, least memory first.

    Of points equal in both, the first one stands.
    """
    ahead: list[Point] = []
    for point in sorted(candidates, key=lambda p: (p.bytes, -p.accuracy, p.number)):
        if not ahead or point.accuracy > ahead[-1].accuracy:
            ahead.append(point)
    return ahead


def hypervolume(sizes: Iterable[int], accuracies: Iterable[float], reference: int) -> float:
    """Area under the step front of accuracy over memory, from no memory to the reference, over the reference.

    It is the mean accuracy that a budget drawn evenly up to the reference could buy: 0 where nothing fits,
    1 for an accuracy of 100% that costs nothing. It never falls when a point is added.

    Args:
        sizes: bytes of each point; those of the reference or more add nothing.
        accuracies: in [0, 1], of the same points in the same order.
        reference: bytes, such as the study's budget.
    """
    area, best, since = 0.0, 0.0, 0
    for size, accuracy in sorted(zip(sizes, accuracies, strict=True)):
        if size < reference and accuracy > best:
            area += best * (size - since)
            best, since = accuracy, size
    return (area + best * (reference - since)) / reference


def covered(points: Iterable[Point], reference: int) -> float:
    """The hypervolume of points up to a reference in bytes: by the accuracies that every table gives them."""
    known = list(points)
    return hypervolume([point.bytes for point in known], [point.accuracy for point in known], reference)


def covered_text(volume: float) -> str:
    """``hypervolume 0.7481``, and what it is."""
    return f"hypervolume {format_number(volume, 4)}: the area under the front up to the budget, of 1"


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


def point_of(folder: Path, number: int, record: Record) -> Point:
    """The point of a trial's configuration.

    Raises:
        UserError: it was not trained to its end.
    """
    for point in points(read_trials(folder)):
        if point.record.key == record.key:
            return point
    raise UserError(
        f"TRIAL: {number} has no accuracy, for it is {record.status}; `bsr-explore show` says why, and "
        "`bsr-explore train --select` trains it all the same"
    )


def study_front(folder: Path) -> list[Point]:
    """The front of a study's folder.

    Raises:
        UserError: no study there, or no trial of it that finished.
    """
    ahead = front(points(read_trials(folder)))
    if not ahead:
        raise UserError(f"STUDY: {folder} has no finished trial yet; run its search first")
    return ahead


def evaluations(record: Record) -> list[tuple[int, float]]:
    """(epoch, accuracy after it) of all that a run was evaluated at."""
    count = len(record.history)
    unsaid = [record.fidelity["epochs"]] if count == 1 else range(1, count + 1)  # by earlier versions
    return list(zip(record.history_epochs or unsaid, record.history, strict=True)) if count else []


def validation_images(record: Record) -> int:
    """How many images the accuracy was measured on."""
    match = re.search(rf"\b{record.protocol.judged_on} (\d+)", record.split)
    return int(match.group(1)) if match else 0
