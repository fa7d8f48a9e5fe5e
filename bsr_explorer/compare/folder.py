"""The folder of a comparison: opened, settled, written."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bsr_explorer.compare.plan import config_of
from bsr_explorer.compare.task import job_of
from bsr_explorer.config import HELD_OUT, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.store.comparison_folder import FILE, Comparison, read_comparison, read_runs, read_step_times
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.store.study import FILE as STUDY
from bsr_explorer.train.recipes import recipe

if TYPE_CHECKING:
    from bsr_explorer.damage import Told
    from bsr_explorer.data.contents import Contents

LOCK = "comparison.lock"

IMAGES = 500
"""Training images, and validation images, of a run for which nothing else is said (or one of each class)."""


def stored(comparison: Comparison, folder: Path) -> Comparison | None:
    """The comparison as its folder completes it; None where the folder holds none yet of which a run has ended.

    Raises:
        UserError: the folder holds another comparison (with the differences), records of something else, or
            a file that cannot be read.
    """
    before = read_comparison(folder)
    if before is None:
        if (folder / STUDY).exists():
            raise UserError(
                f"--out: {folder} is the folder of a study, not of a comparison; give another --out, or use "
                f"`bsr-explore report {shlex.quote(str(folder))}` for what the study found"
            )
        if read_records(folder):
            raise UserError(
                f"--out: {folder} holds records and no {FILE}, so not of a comparison; give another --out"
            )
        return None
    records = read_records(folder).values()
    if all(record.status == "failed" and comparison.owns(record) for record in records):  # to be tried again
        return None
    same = comparison.completed_by(before)
    differences = before.differences(same)
    if differences:
        raise UserError(
            f"--out: {folder} holds another comparison ({'; '.join(differences)}); give the same settings to "
            "go on, or another --out"
        )
    read_runs(same, folder)
    read_step_times(folder)
    return same


def settle(
    comparison: Comparison,
    data_dir: Path,
    image_size: int,
    images: int | None = IMAGES,
    *,
    skip_bad: bool = False,
    told: Told = lambda done, total: None,
) -> Comparison:
    """Decide once what a comparison leaves open, so that all its runs are comparable.

    Weights and data are loaded, so that ``auto`` becomes what it found and sizes are known to exist.

    Args:
        image_size: side of the training images where nothing else is said, pixels.
        images: the most to train on, and to validate on, where nothing else is said (or one of each class);
            None: all, as under another protocol than the usual one.
        skip_bad, told: see ``damage.planned``.

    Raises:
        UserError: weights or data that are not there, or damaged images.
    """
    from bsr_explorer import damage  # what cannot be is refused without torch
    from bsr_explorer.finetune.job import Job, epochs_of

    config = config_of(comparison, comparison.full)
    fidelity = Fidelity(**comparison.fidelity)
    fidelity = replace(fidelity, image_size=fidelity.image_size or image_size)
    rules = recipe(fidelity.recipe, comparison.data)
    if comparison.protocol != HELD_OUT:
        images = None

    def of_all(given: Fidelity, train: int, validation: int) -> Fidelity:
        enough = train + validation if images is None else max(images, config.num_classes)
        train_size = given.train_size or min(enough, train)
        return replace(
            given,
            train_size=train_size,
            val_size=given.val_size or min(enough, validation),
            epochs=given.epochs or epochs_of(rules, train_size, config.batch_size),
        )

    job = Job(comparison.data, fidelity, comparison.weights, data_dir=data_dir)
    settled = damage.settled(config, job, of_all, skip_bad=skip_bad, told=told)
    weights = settled.weights if comparison.weights == "auto" else comparison.weights
    return replace(comparison, fidelity=asdict(settled.fidelity), weights=weights)


def keep(comparison: Comparison, folder: Path) -> None:
    """Write what is compared and predicted into a folder, and run nothing.

    Raises:
        UserError: another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, LOCK, "comparison"):
        comparison.write(folder)


def contents(comparison: Comparison, data_dir: Path) -> Contents:
    """What a settled comparison uses of its data."""
    from bsr_explorer.finetune.job import load_data

    return load_data(config_of(comparison, comparison.full), job_of(comparison, data_dir)).contents


def number_of(folder: Path, record: Record) -> int:
    """The number of an earlier record of the same run, which is replaced, or the next one."""
    records = read_records(folder)
    same = [number for number, r in records.items() if (r.key, r.seed) == (record.key, record.seed)]
    return same[0] if same else max(records, default=-1) + 1
