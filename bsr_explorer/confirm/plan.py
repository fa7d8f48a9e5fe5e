"""Which configurations of a study are trained again, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.again import weights_of
from bsr_explorer.finetune.job import Job, epochs_of
from bsr_explorer.report.front import Point
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.store.tables import differences
from bsr_explorer.train.recipes import Recipe

IMAGES, VALIDATION = 1000, 500
"""Training and validation images where nothing else is said."""

LEAST = 3
"""Configurations of which ranks can be compared."""


@dataclass(frozen=True)
class Run:
    """One training of a configuration, with this seed."""

    point: Point
    seed: int

    @property
    def what(self) -> str:
        """In words."""
        return f"trial {self.point.number}, seed {self.seed}: {self.point.method}"

    @property
    def flops(self) -> int:
        """Of one of its steps; all runs have as many steps."""
        return int(self.point.record.predicted["train_flops"])


def chosen(found: Findings, rivals: int) -> list[Point]:
    """The front, and so many others that come nearest to it, least memory first.

    Nearest is what lacks least quality to the front at its own memory, in its own standard errors: what might have
    been on the front with another seed.

    Raises:
        UserError: too few configurations finished for ranks to be compared.
    """
    front = found.front
    others = [point for point in found.points if point not in front]

    def lacks(point: Point) -> float:
        best = max(ahead.score for ahead in front if ahead.bytes <= point.bytes)
        return (best - point.score) / max(point.standard_error, 1e-9)

    points = [*front, *sorted(others, key=lacks)[:rivals]]
    if len(points) < LEAST:
        raise UserError(
            f"STUDY: {len(points)} of its configurations would be trained, and ranks need {LEAST}; give more --rivals, "
            "or search with more --trials"
        )
    return sorted(points, key=lambda point: (point.bytes, point.number))


def target(of: Record, asked: Fidelity) -> Fidelity:
    """The fidelity of a confirmation: the configuration's own image size, and what its user asked for.

    Args:
        of: any trial of the study.
        asked: with what is left open as None.
    """
    size = asked.image_size or Config.from_dict(of.config).image_size
    return replace(asked, image_size=size, skip=asked.skip or of.fidelity.get("skip"))


def filled(given: Fidelity, train: int, validation: int, rules: Recipe, batch_size: int) -> Fidelity:
    """What a fidelity leaves open, given the images that there are, the recipe and the images of a step."""
    train_size = given.train_size or min(IMAGES, train)
    return replace(
        given,
        train_size=train_size,
        val_size=given.val_size or min(VALIDATION, validation),
        epochs=given.epochs or epochs_of(rules, train_size, batch_size),
    )


def config_of(point: Point, device: str | None) -> Config:
    """A configuration, on another device where one is named (there on the card that is found)."""
    config = Config.from_dict(point.record.config)
    return config if device is None else replace(config, device=device, gpu=None)


def left(points: Sequence[Point], seeds: int, job: Job, folder: Path) -> list[Run]:
    """The runs that a folder does not hold, a seed after the other. What failed is tried again.

    Raises:
        UserError: the folder holds runs of another fidelity, or of other data or weights.
    """
    done = set()
    for number, record in read_records(folder).items():
        other = _differences(record, job)
        if other:
            raise UserError(
                f"--out: {folder}/records/{number:04d}.json was trained otherwise ({'; '.join(other)}); give the same "
                "settings to go on, or another --out"
            )
        if record.status != "failed":
            done.add((record.key, record.seed))
    runs = [Run(point, seed) for seed in range(seeds) for point in points]
    return [run for run in runs if (run.point.record.key, run.seed) not in done]


def _differences(record: Record, job: Job) -> list[str]:
    """How a run was trained otherwise than a job would, ``key: then → now`` each."""
    then: dict[str, Any] = {
        **record.fidelity,
        "data": record.data,
        "weights": weights_of(record),
    }
    now = {**asdict(job.fidelity), "data": job.data, "weights": job.weights}
    return differences({key: then.get(key) for key in now}, now)
