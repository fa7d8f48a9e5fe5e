"""A folder's records as trials, and what a record says of its own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.store.records import read_records, write_record
from bsr_explorer.store.trials import (
    evaluations,
    images_that_count,
    pick,
    read_runs,
    read_trials,
    replica,
    validation_images,
)
from tests.report.points import record


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"STUDY: {tmp_path} is not the folder of a study"):
        read_trials(tmp_path)


def test_a_record_that_is_of_no_search_is_no_trial(finished_once: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_once, tmp_path / "study"))
    write_record(folder, 9, replace(read_records(folder)[0], study={}))
    assert 9 in read_runs(folder)
    with pytest.raises(UserError, match=r"records/0009\.json is not of a search; move it away to go on"):
        read_trials(folder)


def test_a_trial_is_picked_by_its_number() -> None:
    runs = {number: record(number, 0.5) for number in (0, 1, 2, 5)}
    assert pick(runs, 5) is runs[5]
    with pytest.raises(UserError, match=r"^TRIAL: 3 has no record; choose from 0–2, 5$"):
        pick(runs, 3)
    with pytest.raises(UserError, match=r"^TRIAL: 3 has no record; there is none yet$"):
        pick({}, 3)


def test_a_run_on_a_fresh_seed_is_a_replica() -> None:
    assert replica(record(1, 0.5)) == 0
    assert replica(record(1, 0.5, study={"replica": 2})) == 2


def test_evaluations_have_their_epochs() -> None:
    """Those of records that say them, and those of earlier versions, which do not."""
    assert evaluations(record(1, 0.5)) == []
    assert evaluations(record(1, 0.5, history=[0.1, 0.4], history_epochs=[2, 4])) == [(2, 0.1), (4, 0.4)]
    assert evaluations(record(1, 0.5, history=[0.1, 0.4])) == [(1, 0.1), (2, 0.4)]
    assert evaluations(record(1, 0.5, history=[0.4], fidelity={"epochs": 8})) == [(8, 0.4)]


def test_validation_images_are_read_off_the_split() -> None:
    assert validation_images(record(1, 0.5, 359)) == 359
    assert validation_images(record(1, 0.5, split="")) == 0


def test_the_split_of_a_real_record_is_understood(finished_once: Any) -> None:
    assert {validation_images(r) for r in read_records(finished_once).values()} == {20}


def test_images_of_all_tasks_judge_and_the_fewest_count_most() -> None:
    split = "2 tasks: a: validation 100 of 359 / test 3; b: validation 300, validation cut from train"
    of_tasks = replace(record(1, 0.5, split=split), accuracy_by_task={"a": 0.4, "b": 0.6})
    assert validation_images(of_tasks) == 400
    # The mean's variance is (p/100 + p/300) / 2², that of 300 images.
    assert images_that_count(of_tasks) == 300
    assert images_that_count(record(1, 0.5, 359)) == 359
    assert images_that_count(record(1, 0.5, split="")) == 0
