"""A study's folder taken up again: when nothing is left to train, and what is said of it then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from bsr_explorer.store.database import DATABASE
from bsr_explorer.store.reopened import Finished, finished
from bsr_explorer.store.study import FILE, Study

pytestmark = pytest.mark.usefixtures("toy")

MakeStudy = Callable[..., Study]


def study_of(folder: Path, **changed: Any) -> Study:
    return replace(Study.from_toml(folder / FILE), **changed)


def changed_record(folder: Path, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "records" / f"{number:04d}.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_a_study_with_its_trials_is_finished(finished_once: Path) -> None:
    found = finished(study_of(finished_once), finished_once)
    assert found is not None
    assert (found.trials, found.seeds) == (7, 0)
    times = [json.loads(path.read_text())["provenance"]["time"] for path in finished_once.glob("records/*")]
    assert found.time == max(times)
    assert len(found.machines) == 1


@pytest.mark.parametrize(
    ("asked", "is_finished"), [({"trials": 3}, True), ({"trials": 8}, False), ({"replicas": 1}, False)]
)
def test_what_is_asked_for_decides(finished_once: Path, asked: dict[str, int], is_finished: bool) -> None:
    assert (finished(study_of(finished_once, **asked), finished_once) is not None) == is_finished


def test_a_search_that_has_tried_all_that_fits_is_finished(finished_once: Path) -> None:
    study = study_of(finished_once, trials=12)
    assert finished(study, finished_once, most=8) is None
    found = finished(study, finished_once, most=7)
    assert found is not None
    assert (found.trials, found.exhausted) == (7, True)
    both = finished(study_of(finished_once), finished_once, most=100)
    assert both is not None
    assert not both.exhausted


@pytest.mark.parametrize("without", ["", DATABASE])
def test_records_alone_say_as_much_as_a_database(study_folder: Path, without: str) -> None:
    if without:
        (study_folder / without).unlink()
    before = sorted(study_folder.rglob("*"))
    assert finished(study_of(study_folder), study_folder) is not None
    assert finished(study_of(study_folder, replicas=2), study_folder) is None
    assert sorted(study_folder.rglob("*")) == before  # and a look leaves nothing behind


def test_fresh_seeds_of_the_front_are_counted(study_folder: Path) -> None:
    (study_folder / DATABASE).unlink()
    records = {path: json.loads(path.read_text()) for path in (study_folder / "records").glob("*.json")}
    for number, record in enumerate(records.values(), start=len(records)):
        again = {**record, "study": {**record["study"], "replica": 1, "number": number}}
        (study_folder / "records" / f"{number:04d}.json").write_text(json.dumps(again))
    found = finished(study_of(study_folder, replicas=1), study_folder)
    assert found is not None
    assert (found.trials, found.seeds) == (7, 7)
    assert finished(study_of(study_folder, replicas=2), study_folder) is None


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.WAITING])
def test_a_trial_that_was_begun_or_asked_for_is_left(study_folder: Path, state: TrialState) -> None:
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{study_folder / DATABASE}")
    study.add_trial(create_trial(state=state, user_attrs={"key": "another", "replica": 0}))
    assert finished(study_of(study_folder), study_folder) is None


def test_a_trial_that_lost_its_record_is_left(study_folder: Path) -> None:
    (study_folder / "records" / "0003.json").unlink()
    assert finished(study_of(study_folder, trials=6), study_folder) is None


def test_what_failed_is_no_trial_of_it(study_folder: Path) -> None:
    changed_record(
        study_folder, 2, lambda record: record.update(status="failed", reason="why", accuracy=None)
    )
    assert finished(study_of(study_folder), study_folder) is None
    (study_folder / DATABASE).unlink()
    assert finished(study_of(study_folder, trials=6), study_folder) is not None


def test_commits_and_machines_are_each_named_once(study_folder: Path) -> None:
    def made(number: int, **provenance: Any) -> None:
        changed_record(study_folder, number, lambda record: record.update(provenance=provenance))

    for number in range(7):
        made(number, commit="abc", processor="CPU A", cpus=1, time=f"2026-01-0{number + 1}T10:00:00+00:00")
    made(3, bsr_explorer="0.1.0", platform="Linux", time="2026-02-01T12:30:00+02:00")
    made(4)
    found = finished(study_of(study_folder), study_folder)
    assert found is not None
    assert found.said() == (
        "7 trials, the last at 2026-02-01 10:30 UTC, by commit abc and version 0.1.0, on CPU A (1 CPU) and Linux"
    )


def test_old_records_without_provenance_are_said_of_too() -> None:
    assert Finished(1, 1, "", [], []).said() == "1 trial and 1 run on fresh seeds"


def test_a_folder_without_records_is_not_finished(make_study: MakeStudy, tmp_path: Path) -> None:
    assert finished(make_study(), tmp_path) is None
    shutil.rmtree(tmp_path)
    assert finished(make_study(), tmp_path) is None
