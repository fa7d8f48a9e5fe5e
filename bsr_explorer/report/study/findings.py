"""The findings of a study: its records, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.prediction import geometry_of
from bsr_explorer.quality import Quality
from bsr_explorer.report.choice import Choice, recommend
from bsr_explorer.report.front import Point, covered, front, points
from bsr_explorer.store.records import Record
from bsr_explorer.store.trials import read_trials


@dataclass(frozen=True)
class Findings:
    """A study of which at least one trial has finished.

    Attributes:
        records: by trial number.
    """

    records: dict[int, Record]

    @classmethod
    def read(cls, folder: Path) -> Findings:
        """The findings of a study's folder.

        Raises:
            UserError: no study there, or no finished trial in it.
        """
        found = cls(read_trials(folder))
        if not found.points:
            raise UserError(f"STUDY: {folder} has no finished trial yet; run its search first")
        return found

    @cached_property
    def points(self) -> list[Point]:
        """The configurations that were trained to their end."""
        return points(self.records)

    @cached_property
    def front(self) -> list[Point]:
        """The points that none beats in memory without losing quality, least memory first."""
        return front(self.points)

    @cached_property
    def recommendation(self) -> Choice:
        """The point of the front to take if nothing else is asked for."""
        return recommend(self.front)

    @property
    def quality(self) -> Quality:
        """What its trainings were judged by."""
        return self.points[0].quality

    @property
    def study(self) -> dict[str, Any]:
        """What the search knew: name, budget, accounting."""
        return self.points[0].record.study

    @property
    def budget(self) -> int:
        """Bytes."""
        return int(self.study["budget_bytes"])

    @property
    def full(self) -> dict[str, Any]:
        """The prediction for full fine-tuning."""
        return self.points[0].full

    @property
    def config(self) -> Config:
        """Of the recommended configuration.

        Raises:
            UserError: a record of a later version, which says more than this one understands.
        """
        return Config.from_dict(self.recommendation.point.record.config)

    @cached_property
    def unknown(self) -> str:
        """Why the cost model cannot be asked about these configurations; empty if it can.

        Records may be of a model that was registered with timm where they were made, and is not known here.
        """
        try:
            geometry_of(self.config)
        except UserError as error:
            return str(error)
        return ""

    @property
    def seeds(self) -> int:
        """The most runs that an accuracy, or perplexity, is the mean of."""
        return max(point.seeds for point in self.points)

    @cached_property
    def hypervolume(self) -> float:
        """Of the front, up to the budget."""
        return covered(self.front, self.budget)

    @cached_property
    def spread(self) -> list[Point]:
        """Points of the front to show one by one: its ends, the recommended one, and what lies between in rank."""
        last = len(self.front) - 1
        places = {0, last // 3, 2 * last // 3, self.front.index(self.recommendation.point), last}
        return [self.front[place] for place in sorted(places)]
