"""The records of a folder as trials, and what a record says of its own."""

from __future__ import annotations

import re
from pathlib import Path

from bsr_explorer.errors import UserError
from bsr_explorer.store.folder import no_study
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.units import spans


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


def replica(record: Record) -> int:
    """0 for a trial that the search chose; 1, 2, … for the runs of its configuration on fresh seeds."""
    return int(record.study.get("replica", 0))


def evaluations(record: Record) -> list[tuple[int, float]]:
    """(epoch, score after it) of all that a run was evaluated at."""
    count = len(record.history)
    unsaid = [record.fidelity["epochs"]] if count == 1 else range(1, count + 1)  # by earlier versions
    return list(zip(record.history_epochs or unsaid, record.scores, strict=True)) if count else []


def validation_images(record: Record) -> int:
    """How many images, or sequences, the quality was measured on, of all tasks together."""
    return sum(_judging(record))


def images_that_count(record: Record) -> int:
    """By how many images, or sequences, the error of a quality is as large as it is: of several tasks fewer than all,
    where some have fewer than others, for each counts as much in their mean."""
    each = _judging(record)
    return round(len(each) ** 2 / sum(1 / count for count in each)) if each else 0


def _judging(record: Record) -> list[int]:
    """The images of each task that judge it, as the record's split says them."""
    said = re.findall(rf"\b{record.protocol.judged_on} (\d+)", record.split)
    return [int(count) for count in (said if record.accuracy_by_task else said[:1]) if int(count)]
