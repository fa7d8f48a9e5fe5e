"""Two studies side by side: both fronts up to one reference point, and what each has that the other lacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bsr_explorer.errors import UserError
from bsr_explorer.quality import Quality
from bsr_explorer.report.front import Point, covered
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.units import format_bytes, format_number

SAME = ("image_size", "train_size", "val_size", "epochs", "recipe", "views")
"""What of the fidelity makes accuracies comparable."""


CHOSEN = ("method", "lr", "batch_size")
"""What of a configuration a search chooses."""


@dataclass(frozen=True)
class Side:
    """One of the two studies.

    Attributes:
        name: of the study, or of its folder where both studies have one name.
        front: within the reference.
        beyond: points of its own front that need more than the reference.
    """

    name: str
    found: Findings
    front: list[Point]
    beyond: int


@dataclass(frozen=True)
class Between:
    """Two studies whose fronts can be compared.

    Attributes:
        reference: bytes up to which hypervolumes are measured: the smaller budget, within which both have searched.
        differences: what was not the same, a line each.
    """

    sides: tuple[Side, Side]
    reference: int
    differences: list[str]

    @classmethod
    def read(cls, folders: tuple[Path, Path]) -> Between:
        """The comparison of two studies' folders.

        Raises:
            UserError: no study there, no finished trial, memory counted differently, another measure of quality, or a
                front that lies wholly beyond the smaller budget.
        """
        both = (Findings.read(folders[0]), Findings.read(folders[1]))
        counts = [found.study["counts"] for found in both]
        if counts[0] != counts[1]:
            raise UserError(
                f"STUDY: {folders[0]} counts {counts[0]} memory and {folders[1]} counts {counts[1]}; only budgets that "
                "count the same can be compared"
            )
        mine, other = (found.quality.name for found in both)
        if mine != other:
            raise UserError(
                f"STUDY: {folders[0]} is judged by {mine} and {folders[1]} by {other}; only studies that are judged by "
                "the same can be compared"
            )
        reference = min(found.budget for found in both)
        names = [str(found.study["name"]) for found in both]
        names = [str(folder) for folder in folders] if names[0] == names[1] else names
        return cls(
            (_side(names[0], both[0], reference), _side(names[1], both[1], reference)),
            reference,
            _differences(*both),
        )

    @property
    def counts(self) -> str:
        """Key of ``COUNTS``."""
        return str(self.sides[0].found.study["counts"])

    @property
    def quality(self) -> Quality:
        """What both were judged by."""
        return self.sides[0].found.quality

    @property
    def comparable(self) -> bool:
        """Whether accuracies (or perplexities) were come by alike: all was the same, but for the budgets."""
        return all(line.startswith("budget: ") for line in self.differences)

    @cached_property
    def volumes(self) -> tuple[float, float, float]:
        """Hypervolume of each front, and of both together."""
        mine, theirs = (side.front for side in self.sides)
        first, second, both = (covered(points, self.reference) for points in (mine, theirs, mine + theirs))
        return first, second, both

    def lacking(self, side: int) -> list[Point]:
        """Points of one front that the other study lacks: it did not train that configuration, and (where accuracies
        can be compared) has nothing as good, with no more memory and no less quality."""
        other = self.sides[1 - side]
        trained = {_configuration(point) for point in other.found.points}

        def reached(point: Point) -> bool:
            return self.comparable and any(
                theirs.bytes <= point.bytes and theirs.score >= point.score for theirs in other.front
            )

        own = self.sides[side].front
        return [point for point in own if _configuration(point) not in trained and not reached(point)]

    def rows(self) -> list[dict[str, Any]]:
        """Every point of both fronts, least memory first, unscaled; ``only_there``: see ``lacking``."""
        made = []
        for place, side in enumerate(self.sides):
            only = self.lacking(place)
            made += [
                {
                    "study": side.name,
                    "trial": point.number,
                    "method": point.method,
                    self.quality.name: point.value,
                    f"{self.quality.name}_std": point.deviation,
                    "seeds": point.seeds,
                    "counted_bytes": point.bytes,
                    "only_there": point in only,
                }
                for point in side.front
            ]
        name = self.quality.name

        def order(row: dict[str, Any]) -> Any:
            return row["counted_bytes"], -self.quality.score(row[name]), row["study"]

        return sorted(made, key=order)

    def verdict(self) -> str:
        """Which study found more, in a sentence; no winner where the two were not trained alike."""
        first, second, both = (format_number(volume, 4) for volume in self.volumes)
        mine, theirs = (side.name for side in self.sides)
        if not self.comparable:
            lead = f"{first} of {mine}, {second} of {theirs}; no winner, for they were not trained alike"
        elif self.volumes[0] == self.volumes[1]:
            lead = f"both fronts cover the same; both together {both}"
        elif self.volumes[0] > self.volumes[1]:
            lead = f"{mine} covers more: {first} against {second} of {theirs}; both together {both}"
        else:
            lead = f"{theirs} covers more: {second} against {first} of {mine}; both together {both}"
        return f"{lead}; up to {format_bytes(self.reference)}"

    def warning(self) -> str:
        """What stands before the lines of ``differences``."""
        return (
            "Not the same in both:"
            if self.comparable
            else "Not the same in both, so that accuracies cannot be compared and no winner is named:"
        )


def _side(name: str, found: Findings, reference: int) -> Side:
    within = [point for point in found.front if point.bytes <= reference]
    if not within:
        raise UserError(
            f"STUDY: nothing that {name} trained takes at most {format_bytes(reference)}, the smaller of both budgets"
        )
    return Side(name, found, within, len(found.front) - len(within))


def _configuration(point: Point) -> tuple[Any, ...]:
    """What a search chooses: by that, a point is the same in two studies."""
    return tuple(point.record.config.get(key) for key in CHOSEN)


def _differences(first: Findings, second: Findings) -> list[str]:
    """What decides accuracies or memory, and is not the same."""

    def settings(found: Findings) -> dict[str, Any]:
        record = found.points[0].record
        return {
            **{key: value for key, value in record.config.items() if key not in CHOSEN},
            "data": record.data,
            "weights": record.weights.split(": seed ")[0],  # random ones are of each trial's own seed
            **{f"fidelity.{key}": record.fidelity.get(key) for key in SAME},
            "budget": found.study["budget"],
        }

    mine, theirs = settings(first), settings(second)
    return [
        f"{key}: {mine.get(key)!r} → {theirs.get(key)!r}"
        for key in dict.fromkeys([*mine, *theirs])
        if mine.get(key) != theirs.get(key)
    ]
