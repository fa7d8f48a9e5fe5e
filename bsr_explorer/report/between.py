"""Two studies side by side: both fronts up to one reference point, and what each has that the other lacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.report.figures import two_fronts
from bsr_explorer.report.findings import Findings
from bsr_explorer.report.front import Point, covered, front
from bsr_explorer.report.tables import markdown
from bsr_explorer.store.records import write_text
from bsr_explorer.store.study import COUNTS
from bsr_explorer.units import format_bytes, format_mb, format_mib

SAME = ("image_size", "train_size", "val_size", "epochs", "recipe", "views")
"""What of the fidelity makes accuracies comparable."""


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
        differences: what was not the same, so that accuracies are to be compared with care; a line each.
    """

    sides: tuple[Side, Side]
    reference: int
    differences: list[str]

    @classmethod
    def read(cls, folders: tuple[Path, Path]) -> Between:
        """The comparison of two studies' folders.

        Raises:
            UserError: no study there, no finished trial, memory counted differently, or a front that lies wholly beyond
                the smaller budget.
        """
        both = (Findings.read(folders[0]), Findings.read(folders[1]))
        counts = [found.study["counts"] for found in both]
        if counts[0] != counts[1]:
            raise UserError(
                f"STUDY: {folders[0]} counts {counts[0]} memory and {folders[1]} counts {counts[1]}; only budgets that "
                "count the same can be compared"
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

    @cached_property
    def volumes(self) -> tuple[float, float, float]:
        """Hypervolume of each front, and of both together."""
        mine, theirs = (side.front for side in self.sides)
        first, second, both = (covered(points, self.reference) for points in (mine, theirs, mine + theirs))
        return first, second, both

    def lacking(self, side: int) -> list[Point]:
        """Points of one front to which the other has nothing equal or better: no more memory and no less accuracy."""
        other = self.sides[1 - side].front
        return [
            point
            for point in self.sides[side].front
            if not any(mine.bytes <= point.bytes and mine.accuracy >= point.accuracy for mine in other)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Every point of both fronts, least memory first, unscaled; ``ahead``: the other study has nothing like it."""
        made = []
        for place, side in enumerate(self.sides):
            ahead = self.lacking(place)
            made += [
                {
                    "study": side.name,
                    "trial": point.number,
                    "method": point.method,
                    "accuracy": point.accuracy,
                    "accuracy_std": point.deviation,
                    "seeds": point.seeds,
                    "counted_bytes": point.bytes,
                    "ahead": point in ahead,
                }
                for point in side.front
            ]
        return sorted(made, key=lambda row: (row["counted_bytes"], -row["accuracy"], row["study"]))

    def verdict(self) -> str:
        """Which study found more, in a sentence."""
        first, second, both = self.volumes
        better, worse = (0, 1) if first >= second else (1, 0)
        if first == second:
            lead = "both fronts cover the same"
        else:
            names, volumes = [side.name for side in self.sides], self.volumes
            lead = f"{names[better]} covers more: {volumes[better]:.4f} against {volumes[worse]:.4f} of {names[worse]}"
        return f"{lead}; both together {both:.4f}, up to {format_bytes(self.reference)}"


def _side(name: str, found: Findings, reference: int) -> Side:
    within = front(point for point in found.points if point.bytes <= reference)
    if not within:
        raise UserError(
            f"STUDY: nothing that {name} trained takes at most {format_bytes(reference)}, the smaller of both budgets"
        )
    return Side(name, found, within, len(found.front) - len(within))


def _differences(first: Findings, second: Findings) -> list[str]:
    """What decides accuracies or memory, and is not the same."""

    def settings(found: Findings) -> dict[str, Any]:
        record = found.points[0].record
        free = ("method", "lr", "batch_size")
        return {
            **{key: value for key, value in record.config.items() if key not in free},
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


def write(between: Between, folder: Path) -> list[Path]:
    """Write the table (CSV), a page of Markdown and the figure of both fronts; returns their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    page, table = folder / "studies.md", folder / "studies.csv"
    try:
        write_text(table, pd.DataFrame(between.rows()).to_csv(index=False))
        drawn = two_fronts.draw(between, folder / "figures")
        write_text(page, _page(between))
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, folder)}") from None
    return [page, table, *drawn]


def readable(between: Between) -> list[dict[str, str]]:
    """The rows, scaled for reading."""
    return [
        {
            "accuracy (%)": f"{100 * row['accuracy']:.1f}"
            + ("" if row["accuracy_std"] is None else f" ± {100 * row['accuracy_std']:.1f}"),
            "MB": format_mb(row["counted_bytes"]),
            "MiB": format_mib(row["counted_bytes"]),
            "study": row["study"],
            "only there": "yes" if row["ahead"] else "",
            "trial": str(row["trial"]),
            "method": row["method"],
        }
        for row in between.rows()
    ]


def _page(between: Between) -> str:
    names = [side.name for side in between.sides]
    lines = [
        f"# {names[0]} and {names[1]}",
        "",
        f"Counted is {COUNTS[between.counts]}; {between.verdict()}.",
        "",
    ]
    if between.differences:
        lines += ["Not the same in both, so compare accuracies with care:", ""]
        lines += [*(f"- {difference}" for difference in between.differences), ""]
    lines += [
        markdown(pd.DataFrame(readable(between)), as_text=True),
        "",
        "*Only there*: the other study has nothing with as much accuracy for as little memory.",
        "",
        "![both fronts](figures/two_fronts.png)",
        "",
    ]
    return "\n".join(lines)
