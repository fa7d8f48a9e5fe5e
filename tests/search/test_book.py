"""The book of a study: database and records agree, whatever one of them has lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import event

from bsr_explorer.errors import UserError
from bsr_explorer.search.book import INTERRUPTED, Book
from bsr_explorer.search.coordinator import Search
from bsr_explorer.search.space import Space
from bsr_explorer.store.database import DATABASE
from bsr_explorer.store.records import read_records, write_record
from bsr_explorer.store.study import SpaceSpec, Study

MakeStudy = Callable[..., Study]
OpenSearch = Callable[..., Search]


def open_book(study: Study, folder: Path) -> Book:
    return Book(study, folder, Space(study))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "records").iterdir())}


def told(book: Book) -> list[tuple[Any, ...]]:
    """What the database says of each trial that a search may follow from."""
    return [(t.number, t.state, t.values, t.params, t.user_attrs) for t in book.trials()]


# --- what has been lost ---------------------------------------------------------------------------------


def test_a_lost_database_is_made_again_from_the_records(make_study: MakeStudy, study_folder: Path) -> None:
    study = make_study()
    before, records = told(open_book(study, study_folder)), content(study_folder)
    (study_folder / DATABASE).unlink()
    book = open_book(study, study_folder)
    assert told(book) == before
    assert content(study_folder) == records
    assert book.repairs == [
        f"trial {number} was unknown to the database: added from its record" for number in range(7)
    ]
    assert open_book(study, study_folder).repairs == []


def test_a_database_of_before_gets_the_records_of_after(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path, quiet: Any
) -> None:
    study = make_study(trials=9)
    backup = study_folder / "backup.db"
    shutil.copy(study_folder / DATABASE, backup)
    open_search(study, study_folder).run(quiet)
    before, records = told(open_book(study, study_folder)), content(study_folder)
    backup.replace(study_folder / DATABASE)
    book = open_book(study, study_folder)
    assert [repair.split()[1] for repair in book.repairs] == ["7", "8"]
    assert told(book) == before
    assert content(study_folder) == records


def test_a_gap_among_the_records_of_a_lost_database_is_trained(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path, quiet: Any
) -> None:
    """As after two at once, of which the earlier one had not ended."""
    study = make_study()
    before, records = told(open_book(study, study_folder)), content(study_folder)
    (study_folder / DATABASE).unlink()
    (study_folder / "records" / "0005.json").unlink()
    search = open_search(study, study_folder)
    assert len(search.book) == 5
    assert search.run(quiet).finished == 7
    assert told(search.book) == before
    after = content(study_folder)
    assert after.keys() == records.keys()
    lost = json.loads(after.pop("0005.json"))
    assert after == {name: text for name, text in records.items() if name != "0005.json"}
    assert lost["accuracy"] == json.loads(records["0005.json"])["accuracy"]


def test_a_lost_record_is_trained_again(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path, quiet: Any
) -> None:
    before, kept = told(open_book(make_study(), study_folder)), read_records(study_folder)[3]
    (study_folder / "records" / "0003.json").unlink()
    search = open_search(make_study(), study_folder)
    assert search.book.repairs == ["trial 3 has lost its record: it is trained again"]
    search.run(quiet)
    assert told(search.book) == before
    found = read_records(study_folder)[3]
    assert (found.accuracy, found.losses, found.study) == (kept.accuracy, kept.losses, kept.study)


def test_trials_that_earlier_versions_interrupted_stay_as_they_are(
    make_study: MakeStudy, study_folder: Path
) -> None:
    book = open_book(make_study(), study_folder)
    candidate = book.space.at(5)
    number = book.add(candidate)
    book.note(number, "reason", INTERRUPTED)
    book.optuna.tell(number, state=TrialState.FAIL)
    book = open_book(make_study(), study_folder)
    assert book.repairs == []
    assert not book.due(book.trials()[number])
    assert candidate.key not in book.begun()  # it may be proposed again


def test_what_a_trial_has_left_behind_is_removed(make_study: MakeStudy, study_folder: Path) -> None:
    book = open_book(make_study(), study_folder)
    waiting = book.add(book.space.at(5), state=TrialState.WAITING)
    for number in (2, waiting):
        for kind in ("checkpoint", "log"):
            book.file(kind, number).parent.mkdir(exist_ok=True)
            book.file(kind, number).touch()
    half = [study_folder / kind / ".0002.abc.tmp" for kind in ("records", "checkpoints")]
    for path in half:
        path.touch()
    open_book(make_study(), study_folder)
    assert not any(path.exists() for path in half)
    assert [
        book.file(kind, number).exists() for number in (2, waiting) for kind in ("checkpoint", "log")
    ] == [*(False, False, True, True)]


def test_output_stays(make_study: MakeStudy, study_folder: Path) -> None:
    book = open_book(make_study(), study_folder)
    book.file("log", 2).parent.mkdir()
    book.file("log", 2).write_text("something")
    open_book(make_study(), study_folder)
    assert book.file("log", 2).read_text() == "something"


# --- what is of something else --------------------------------------------------------------------------


def test_a_record_of_another_trial_is_refused(make_study: MakeStudy, study_folder: Path) -> None:
    records = study_folder / "records"
    shutil.copy(records / "0002.json", records / "0003.json")
    with pytest.raises(UserError, match=r"records/0003\.json is not of trial 3 of study\.db; move it away"):
        open_book(make_study(), study_folder)


@pytest.mark.parametrize("what", ["name", "space", "model", "key"])
def test_a_record_of_another_study_is_not_added(make_study: MakeStudy, study_folder: Path, what: str) -> None:
    record = read_records(study_folder)[6]
    other = {
        "name": replace(record, study={**record.study, "name": "another"}),
        "space": replace(record, config={**record.config, "method": "bitfit"}),
        "model": replace(record, config={**record.config, "image_size": 64}),
        "key": replace(record, key="0" * 16),
    }[what]
    write_record(study_folder, 7, other)
    before = content(study_folder)
    with pytest.raises(UserError, match=r"records/0007\.json is not of this study; move it away to go on"):
        open_book(make_study(), study_folder)
    assert content(study_folder) == before


def test_a_database_of_another_space_is_refused_with_the_difference(
    make_study: MakeStudy, study_folder: Path
) -> None:
    """Even where study.toml does not say so, which anybody may edit."""
    with pytest.raises(UserError) as error:
        open_book(make_study(budget="1300KB"), study_folder)
    assert str(error.value).startswith(
        f"--out: {study_folder} holds a study of another space (budget.bytes: '1400KB' → '1300KB')"
    )
    assert open_book(make_study(budget="1.4MB"), study_folder).repairs == []  # the same bytes


def test_a_space_that_is_laid_out_otherwise_is_refused_with_the_difference(
    make_study: MakeStudy, study_folder: Path
) -> None:
    """As after a change of this program, of which the settings say nothing."""
    study = make_study()
    open_book(study, study_folder)
    with sqlite3.connect(study_folder / DATABASE) as database:
        database.execute("DELETE FROM study_user_attributes")
    other = make_study(space=SpaceSpec(study.space.start, 3, study.space.drop_at, fuse=(True,)))
    with pytest.raises(UserError, match=r"another space \(parameter fuse: .*\[false, true\].* → .*\[true\]"):
        open_book(other, study_folder)


def test_equal_spaces_have_equal_hashes(make_study: MakeStudy, tmp_path: Path) -> None:
    hashes = []
    for place, changes in enumerate(({}, {"trials": 9, "sampler": "qmc", "rungs": (1,)}, {"seed": 1})):
        folder = tmp_path / str(place)
        folder.mkdir()
        hashes.append(open_book(make_study(**changes), folder).optuna.user_attrs["space_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.thorough
def test_flops_are_a_third_objective(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path, quiet: Any
) -> None:
    three = make_study(objectives=("accuracy", "memory", "flops"), trials=8, sampler="nsga2", replicas=1)
    search = open_search(three, tmp_path)
    search.run(quiet)
    records = read_records(tmp_path)
    for trial in search.book.trials():
        record = records[trial.number]
        known = [record.accuracy, record.study["counted_bytes"], record.predicted["train_flops"]]
        assert trial.values == known
        assert trial.user_attrs["train_flops"] == known[2]
    assert search.book.optuna.metric_names == [
        *("validation accuracy", "peak bytes", "FLOPs of a training step")
    ]
    with pytest.raises(
        UserError, match=r"another space \(search.objectives: .*'flops'\] → \['accuracy', 'memory'\]"
    ):
        open_book(replace(three, objectives=("accuracy", "memory")), tmp_path)


def test_a_database_of_another_name_is_refused(make_study: MakeStudy, study_folder: Path) -> None:
    with pytest.raises(UserError, match="holds the study 'toy-study'; give --study 'toy-study', or another"):
        open_book(make_study(name="another"), study_folder)


def test_what_is_no_database_is_refused(make_study: MakeStudy, tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("no database " * 100)
    with pytest.raises(UserError, match=r"study\.db cannot be used as a database \(file is not a database\)"):
        open_book(make_study(), tmp_path)


# --- disks that are full, or cannot be written ----------------------------------------------------------


@pytest.mark.thorough
def test_a_record_that_finds_no_room_leaves_nothing_and_is_trained_again(
    monkeypatch: pytest.MonkeyPatch,
    make_study: MakeStudy,
    open_search: OpenSearch,
    finished_once: Path,
    tmp_path: Path,
    quiet: Any,
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    open_search(make_study(trials=2), tmp_path).run(quiet)
    before = content(tmp_path)
    search = open_search(make_study(), tmp_path)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(os, "fsync", full)
        search.run(quiet)
    assert content(tmp_path) == before
    search = open_search(make_study(), tmp_path)
    assert search.book.repairs == ["trial 2 had not ended: it goes on"]
    search.run(quiet)
    mine, theirs = read_records(tmp_path), read_records(finished_once)
    assert [(r.key, r.accuracy) for r in mine.values()] == [(r.key, r.accuracy) for r in theirs.values()]


@pytest.mark.thorough
def test_a_full_database_ends_the_search_as_a_full_disk_does(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path, quiet: Any
) -> None:
    """SQLite itself is told how large the file may become."""
    search = open_search(make_study(trials=40), study_folder)
    engine = search.book.optuna._storage._backend.engine  # type: ignore[attr-defined]
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        free = connection.exec_driver_sql("PRAGMA freelist_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages - free}")
    with pytest.raises(OSError, match="database or disk is full") as error:
        search.run(quiet)
    assert error.value.filename == str(study_folder / DATABASE)
    search.book.optuna._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    again = open_search(make_study(trials=9), study_folder)
    again.run(quiet)
    assert {t.state for t in again.book.trials()} == {TrialState.COMPLETE}
    assert sorted(read_records(study_folder)) == list(range(len(again.book)))


@pytest.mark.thorough
def test_a_database_that_cannot_be_written_ends_the_search_with_a_line(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path, quiet: Any
) -> None:
    search = open_search(make_study(trials=9), study_folder)
    engine = search.book.optuna._storage._backend.engine  # type: ignore[attr-defined]
    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = 1"))
    with pytest.raises(OSError, match="attempt to write a readonly database"):
        search.run(quiet)
    engine.dispose()
    search = open_search(make_study(trials=9), study_folder)
    assert search.run(quiet).finished == 9
