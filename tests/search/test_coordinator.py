"""The search: what it trains, what it writes, and that nothing that ends it early loses or repeats a trial."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.finetune.run import run
from bsr_explorer.report.front import front, points
from bsr_explorer.search.book import Book
from bsr_explorer.search.coordinator import Search
from bsr_explorer.search.executors.base import Crashed, Task
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.executors.processes import Processes
from bsr_explorer.search.space import Candidate
from bsr_explorer.store.database import DATABASE
from bsr_explorer.store.records import Record, read_records, write_record
from bsr_explorer.store.reopened import open_folder, stored_study
from bsr_explorer.store.study import FILE, LOCK, SpaceSpec, Study
from bsr_explorer.train.recipes import RECIPES
from tests.search.killing import IMPORTS, InAnyOrder

MakeStudy = Callable[..., Study]
OpenSearch = Callable[..., Search]

RUN, DONE, FAILED = TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL


class Watch:
    """Notes what a search tells, and raises during one of its trials."""

    def __init__(self, raise_at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.raise_at, self.error = raise_at, error
        self.started: list[tuple[int, str, int]] = []
        self.steps: list[tuple[int, int, int]] = []
        self.crashed: list[tuple[int, str]] = []
        self.ended: list[int] = []

    def trial_starts(self, number: int, candidate: Candidate, replica: int) -> None:
        self.started.append((number, candidate.key, replica))

    def step(self, number: int, done: int, total: int, loss: float) -> None:
        self.steps.append((number, done, total))
        if number == self.raise_at and done == 2:
            raise self.error

    def trial_crashed(self, number: int, reason: str) -> None:
        self.crashed.append((number, reason))

    def trial_ends(self, number: int, record: Record) -> None:
        self.ended.append(number)


def fingerprint(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "records").glob("*.json"))}


def outcomes(folder: Path) -> dict[int, tuple[str, int, str, float | None, list[float]]]:
    """What each trial was of, and what it came to."""
    records = read_records(folder).items()
    return {number: (r.key, r.seed, r.status, r.accuracy, r.losses) for number, r in records}


def first(trials: int, of: dict[int, Any]) -> dict[int, Any]:
    """The first trials of a study."""
    return {number: of[number] for number in range(trials)}


def check_whole(search: Search, trials: int) -> None:
    """All trials are there once, and records and database agree."""
    records = read_records(search.folder)
    finished = {number: record for number, record in records.items() if record.status == "finished"}
    assert len(finished) == trials
    assert len({record.key for record in finished.values()}) == trials
    assert search.book.trials(RUN) == []
    told = {trial.number: trial for trial in search.book.trials(DONE)}
    assert told.keys() == finished.keys()
    for number, record in finished.items():
        assert told[number].values == [record.accuracy, record.study["counted_bytes"]]
        assert told[number].user_attrs["key"] == record.key
        assert search.space.decode(told[number].params).key == record.key


# --- from end to end ------------------------------------------------------------------------------------


def test_a_search_trains_what_it_was_asked_for(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    search, watch = open_search(make_study(), tmp_path), Watch()
    ended = search.run(watch)
    assert (ended.because, ended.finished, ended.failed) == ("trials", 7, 0)
    check_whole(search, 7)
    records = read_records(tmp_path)
    assert watch.started == [(number, records[number].key, 0) for number in range(7)]
    assert watch.ended == list(range(7))
    assert watch.steps == [(number, done, 5) for number in range(7) for done in range(1, 6)]
    known = [str(c.config.how) for c in search.space.known if search.space.fits(c)]
    assert [record.method for record in records.values()][:6] == known
    assert {path.name for path in tmp_path.iterdir()} == {FILE, DATABASE, LOCK, "records"}


def test_a_record_knows_its_study(finished_once: Path) -> None:
    study = Study.from_toml(finished_once / FILE)
    records = read_records(finished_once)
    assert len({record.seed for record in records.values()}) == 7  # each experiment has its own
    for number, record in records.items():
        assert record.study["number"] == number
        assert record.study["name"] == study.name
        assert (record.study["budget"], record.study["budget_bytes"]) == ("1400KB", 1_400_000)
        assert record.study["counts"] == "peak"
        assert record.study["counted_bytes"] == record.predicted["peak_bytes"] <= 1_400_000
        assert record.study["full"]["counted_bytes"] > 1_400_000
        assert record.measured is not None
        assert record.measured["saved_bytes"] == record.measured["predicted_saved_bytes"]
        assert record.measured["peak_bytes"] == pytest.approx(
            record.measured["predicted_peak_bytes"], rel=1e-3
        )


def test_the_test_set_is_not_for_a_search(finished_once: Path) -> None:
    assert {record.test_accuracy for record in read_records(finished_once).values()} == {None}


@pytest.mark.thorough
def test_another_seed_searches_elsewhere(
    make_study: MakeStudy, open_search: OpenSearch, finished_once: Path, tmp_path: Path
) -> None:
    space = replace(make_study().space, start=())
    for seed in (0, 1):
        open_search(make_study(seed=seed, trials=2, space=space), tmp_path / str(seed)).run(Watch())
    mine, theirs = (read_records(tmp_path / str(seed)) for seed in (0, 1))
    assert {record.key for record in mine.values()} != {record.key for record in theirs.values()}


def test_a_tiny_space_is_searched_to_its_end(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    space = SpaceSpec(("linear", "full"), max_blocks=1, drop_at=())
    search = open_search(make_study(space=space, trials=99), tmp_path)
    ended = search.run(Watch())
    assert (ended.because, ended.finished) == ("exhausted", 6)
    check_whole(search, 6)


def test_no_trial_begins_that_would_overrun(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    search = open_search(make_study(time_limit=30.0), tmp_path)
    allowed = search.space.known[:3]
    ended = search.run(Watch(), lambda candidate: 1.0 if candidate in allowed else 60.0)
    assert (ended.because, ended.finished) == ("time", 3)
    assert search.run(Watch(), lambda candidate: 1.0).because == "trials"
    check_whole(search, 7)


def test_what_is_expected_counts_once_something_has_ended(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    search = open_search(make_study(time_limit=30.0), tmp_path)
    ended = search.run(Watch(), lambda candidate: 60.0)
    assert (ended.because, ended.finished) == ("time", 1)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("config", "optimizer"),
    [({"precision": "amp_bf16"}, "adamw"), ({"micro_batches": 2, "optimizer": "adamw_8bit"}, "adamw_8bit")],
    ids=str,
)
def test_trials_are_run_as_the_configuration_says(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path, config: dict[str, Any], optimizer: str
) -> None:
    search = open_search(make_study(config=config, trials=2), tmp_path)
    assert search.run(Watch()).because == "trials"
    check_whole(search, 2)
    for record in read_records(tmp_path).values():
        assert record.config.items() >= {"optimizer": optimizer, **config}.items()
        measured = record.measured
        assert measured is not None
        assert measured["saved_bytes"] == measured["predicted_saved_bytes"]
        assert measured["peak_bytes"] == pytest.approx(measured["predicted_peak_bytes"], rel=1e-3)


# --- several batch sizes --------------------------------------------------------------------------------


def test_a_search_over_batch_sizes_ends_with_every_one_trained(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    spec = SpaceSpec(("linear",), max_blocks=0, drop_at=(), batch_sizes=(4, 2))
    study = make_study(space=spec, trials=99)
    first = open_search(replace(study, trials=1), tmp_path)
    assert first.run(Watch()).because == "trials"
    search, watch = open_search(study, tmp_path), Watch()
    ended = search.run(watch)
    assert (ended.because, ended.finished) == ("exhausted", search.space.fitting)
    check_whole(search, 4)
    assert [number for number, _, _ in watch.started] == [1, 2, 3]
    assert trained(tmp_path)[0] == ("linear", 4)
    methods = ("linear", "bsr(blocks=(), keep={}, fuse=False)")
    assert set(trained(tmp_path)) == set(itertools.product(methods, (2, 4)))


def trained(folder: Path) -> list[tuple[str, int]]:
    """Method and batch size of each trial."""
    return [(record.method, record.config["batch_size"]) for record in read_records(folder).values()]


def test_other_batch_sizes_are_another_study(make_study: MakeStudy, study_folder: Path) -> None:
    study = make_study()
    other = replace(study, space=replace(study.space, batch_sizes=(4, 8)))
    with pytest.raises(UserError, match=r"another space \(space\.batch_sizes: \[\] → \[4, 8\]\)"):
        stored_study(other, study_folder)


# --- going on -------------------------------------------------------------------------------------------


def test_a_finished_search_trains_nothing_more(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path
) -> None:
    before, watch = fingerprint(study_folder), Watch()
    search = open_search(make_study(), study_folder)
    assert search.run(watch).because == "trials"
    assert watch.started == []
    assert fingerprint(study_folder) == before
    assert search.book.repairs == []


def test_more_trials_add_to_those_that_are_there(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path
) -> None:
    before, watch = fingerprint(study_folder), Watch()
    search = open_search(make_study(trials=9), study_folder)
    search.run(watch)
    assert [number for number, _, _ in watch.started] == [7, 8]
    check_whole(search, 9)
    assert fingerprint(study_folder).items() >= before.items()


@pytest.mark.thorough
def test_in_two_parts_a_search_finds_what_it_finds_in_one(
    make_study: MakeStudy, open_search: OpenSearch, finished_once: Path, tmp_path: Path
) -> None:
    for trials in (3, 7):
        open_search(make_study(trials=trials), tmp_path).run(Watch())
    assert outcomes(tmp_path) == outcomes(finished_once)


def leave_running(search: Search, index: int = 0) -> int:
    """A trial such as a killed search leaves it: in the database, running."""
    return search.book.add(search.space.at(index))


def test_a_record_is_written_before_the_database_is_told(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    """Killed in between, the search reads the record; the other way round, it would be lost."""
    tell, there = Book._tell, []

    def watched(self: Book, number: int, record: Record) -> None:
        there.append(read_records(tmp_path).get(number) == record)
        tell(self, number, record)

    monkeypatch.setattr(Book, "_tell", watched)
    open_search(make_study(trials=2), tmp_path).run(Watch())
    assert there == [True, True]


def test_a_record_that_was_not_told_is_told_and_not_trained_again(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path
) -> None:
    first = open_search(make_study(), study_folder)
    number, candidate = leave_running(first), first.space.at(0)
    record = read_records(study_folder)[0]
    told = {**record.study, "number": number, "counted_bytes": candidate.counted_bytes}
    write_record(study_folder, number, replace(record, key=candidate.key, accuracy=0.875, study=told))
    before = fingerprint(study_folder)

    search, watch = open_search(make_study(trials=9), study_folder), Watch()
    assert search.book.repairs == ["trial 7 had its record: told"]
    assert search.book.trials(RUN) == []
    assert search.book.optuna.trials[number].values == [0.875, candidate.counted_bytes]
    search.run(watch)
    assert [started for started, _, _ in watch.started] == [8]
    assert candidate.key not in [key for _, key, _ in watch.started]
    assert fingerprint(study_folder).items() >= before.items()
    check_whole(search, 9)


def test_a_diverged_record_that_was_not_told_is_told(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path
) -> None:
    first = open_search(make_study(), study_folder)
    number, key = leave_running(first), first.space.at(0).key
    lost = replace(read_records(study_folder)[0], key=key, status="diverged", accuracy=None, reason="nan")
    write_record(study_folder, number, lost)
    search = open_search(make_study(), study_folder)
    assert (
        search.book.optuna.trials[number].state,
        search.book.optuna.trials[number].user_attrs["reason"],
    ) == (
        FAILED,
        "nan",
    )


def test_a_trial_without_a_record_goes_on_under_its_number(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path
) -> None:
    first = open_search(make_study(), study_folder)
    number, key = leave_running(first, index=5), first.space.at(5).key
    search, watch = open_search(make_study(trials=9), study_folder), Watch()
    assert search.book.repairs == ["trial 7 had not ended: it goes on"]
    search.run(watch)
    assert watch.started[0] == (number, key, 0)
    assert [number for number, _, _ in watch.started] == [7, 8]
    check_whole(search, 9)


def test_a_record_that_cannot_be_read_is_named(
    make_study: MakeStudy, open_search: OpenSearch, study_folder: Path
) -> None:
    (study_folder / "records" / "0002.json").write_text("{")
    with pytest.raises(UserError, match=r"records/0002\.json: not a record of a trial"):
        open_search(make_study(), study_folder)


def test_two_searches_in_one_folder_do_no_harm(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    def meanwhile(*arguments: Any) -> Record:
        with contextlib.suppress(UserError):
            open_search(make_study(), tmp_path)
        return run(*arguments)

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", meanwhile)
    search = open_search(make_study(trials=2), tmp_path)
    search.run(Watch())
    check_whole(search, 2)


# --- interrupted ----------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, UserError])
def test_what_ends_a_search_during_a_trial_loses_nothing(
    make_study: MakeStudy,
    open_search: OpenSearch,
    finished_once: Path,
    tmp_path: Path,
    error: type[BaseException],
) -> None:
    study = make_study(trials=4)
    stopped, watch = open_search(study, tmp_path), Watch(raise_at=2, error=error)
    with pytest.raises(error):
        stopped.run(watch)
    assert [trial.number for trial in stopped.book.trials(RUN)] == [2]
    before, key = fingerprint(tmp_path), watch.started[-1][1]
    assert list(before) == ["0000.json", "0001.json"]

    second, watch = open_search(study, tmp_path), Watch()
    second.run(watch)
    assert watch.started[0] == (2, key, 0)
    assert fingerprint(tmp_path).items() >= before.items()
    check_whole(second, 4)
    assert outcomes(tmp_path) == first(4, outcomes(finished_once))
    known = [str(c.config.how) for c in second.space.known if second.space.fits(c)]
    assert [record.method for record in read_records(tmp_path).values()] == known[:4]  # by their names


@pytest.mark.thorough
def test_ctrl_c_between_record_and_database_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    def interrupt(self: Book, number: int, record: Record) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Book, "_tell", interrupt)
        open_search(make_study(), tmp_path).run(Watch())
    assert list(read_records(tmp_path)) == [0]
    search = open_search(make_study(), tmp_path)
    search.run(Watch())
    check_whole(search, 7)


# --- trials that fail -----------------------------------------------------------------------------------


def test_a_trial_that_raises_is_recorded_and_the_search_goes_on(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    def sometimes(config: Config, job: Job, progress: Any, *watch: Any) -> Record:
        if "last(k=1)" in str(config.how):
            raise RuntimeError("no such kernel")
        return run(config, job, progress, *watch)

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", sometimes)
    search, watch = open_search(make_study(), tmp_path), Watch()
    ended = search.run(watch)
    assert (ended.because, ended.finished, ended.failed) == ("trials", 7, 1)
    check_whole(search, 7)
    (failed,) = [number for number, r in read_records(tmp_path).items() if r.status == "failed"]
    record = read_records(tmp_path)[failed]
    assert record.method == "last(k=1)"
    assert record.accuracy is None
    assert record.predicted["peak_bytes"] == record.study["counted_bytes"]
    assert record.reason.startswith("RuntimeError at test_coordinator.py:")
    assert record.reason.endswith(": no such kernel")
    assert search.book.optuna.trials[failed].state == FAILED
    assert search.book.optuna.trials[failed].user_attrs["reason"] == record.reason
    again = Watch()
    open_search(make_study(trials=8), tmp_path).run(again)
    assert len(again.started) == 1  # and what failed for a reason is not tried again
    assert again.started[0][1] not in [trial.user_attrs["key"] for trial in search.book.optuna.trials[:8]]


def test_a_space_of_one_size_is_searched_to_its_end(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    space = SpaceSpec((), max_blocks=0, drop_at=())
    search = open_search(make_study(space=space), tmp_path)
    ended = search.run(Watch())
    assert (ended.because, ended.finished) == ("exhausted", 1)


def test_a_failed_record_has_its_key(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    def fail(config: Config, job: Job, progress: Any, *watch: Any) -> Record:
        raise RuntimeError("no")

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", fail)
    space = SpaceSpec(("linear",), max_blocks=0, drop_at=())
    search = open_search(make_study(space=space), tmp_path)
    search.run(Watch())
    assert read_records(tmp_path)[0].key == search.space.known[0].key


@pytest.mark.thorough
@pytest.mark.parametrize(("failing", "trials"), [("fffff", 3), ("ff.ff.fff", 9), (".ff.ff.", 7)])
def test_errors_in_a_row_end_a_search(
    monkeypatch: pytest.MonkeyPatch,
    make_study: MakeStudy,
    open_search: OpenSearch,
    tmp_path: Path,
    failing: str,
    trials: int,
) -> None:
    begun: list[Config] = []

    def sometimes(config: Config, job: Job, progress: Any, *watch: Any) -> Record:
        begun.append(config)
        if failing[len(begun) - 1] == "f":
            raise RuntimeError("no such kernel")
        return run(config, job, progress, *watch)

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", sometimes)
    ended = open_search(make_study(trials=3), tmp_path).run(Watch())
    assert len(begun) == trials
    assert ended.because == ("failures" if failing[trials - 3 : trials] == "fff" else "trials")


def test_a_diverged_trial_is_failed_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    short = replace(RECIPES["short"], lr=1e30, clip=None, warmup_steps=0)
    monkeypatch.setitem(RECIPES, "short", short)
    space = SpaceSpec(("linear", "last(k=1)"), max_blocks=1, drop_at=())
    search = open_search(make_study(space=space), tmp_path)
    ended = search.run(Watch())
    assert (ended.because, ended.finished, ended.failed) == ("exhausted", 0, 6)
    for number, record in read_records(tmp_path).items():
        assert record.status == "diverged"
        assert record.reason.startswith("the loss was ")
        assert search.book.optuna.trials[number].state == FAILED
        assert search.book.optuna.trials[number].user_attrs["reason"] == record.reason


# --- the folder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"budget": "1300KB"}, "budget.bytes: '1400KB' → '1300KB'"),
        ({"seed": 4}, "study.seed: 0 → 4"),
        ({"config": {"batch_size": 8}}, "config.batch_size: 4 → 8"),
        ({"counts": "saved"}, "budget.counts: 'peak' → 'saved'"),
    ],
)
def test_a_study_of_another_space_is_refused_with_the_difference(
    make_study: MakeStudy,
    open_search: OpenSearch,
    study_folder: Path,
    changes: dict[str, Any],
    difference: str,
) -> None:
    before = fingerprint(study_folder)
    with pytest.raises(UserError) as error:
        open_search(make_study(**changes), study_folder)
    assert str(error.value).startswith(f"--out: {study_folder} holds a study of another space ({difference})")
    assert fingerprint(study_folder) == before


def test_what_is_left_open_is_as_the_folder_has_it(make_study: MakeStudy, study_folder: Path) -> None:
    asked = make_study(fidelity=Fidelity(), weights="auto", name="another name", trials=20)
    found = stored_study(asked, study_folder)
    assert found is not None
    assert found == replace(make_study(), trials=20)


def test_no_folder_has_no_study(make_study: MakeStudy, tmp_path: Path) -> None:
    assert stored_study(make_study(), tmp_path) is None


def test_a_file_in_the_way_is_no_folder(make_study: MakeStudy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file"
    with pytest.raises(UserError, match=f"--out: {folder} cannot be written"):
        open_folder(make_study(), folder, "a command")
    assert folder.read_text() == "in the way"


# --- killed ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of searches that were killed; see killing.py."""
    return run_killing(tmp_path_factory.mktemp("killed") / "here", "12")


def run_killing(folder: Path, what: str) -> dict[str, Any]:
    command = "from tests.search.killing import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, str(folder), what],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    states = [state for _, state, *_ in answer["whole"]["trials"]]
    replicas = [replica for *_, replica, _ in answer["whole"]["records"]]
    assert states.count("COMPLETE") + states.count("PRUNED") == len(states)
    assert replicas.count(0) == 8
    assert replicas.count(1) >= 1
    return answer


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The very same trials, and nothing left over."""
    assert one["trials"] == other["trials"]
    assert one["records"] == other["records"]
    assert (one["left"], one["repairs"]) == ([], [])


@pytest.mark.thorough
@pytest.mark.long
def test_a_search_that_is_killed_at_each_point_ends_as_if_it_had_not_been(killed: dict[str, Any]) -> None:
    codes = killed["points"]["codes"]
    assert codes.pop("at last") == 0
    assert set(codes.values()) == {-signal.SIGKILL}
    assert len(codes) == 9
    check_same(killed["points"], killed["whole"])


@pytest.mark.thorough
@pytest.mark.long
def test_a_search_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(killed: dict[str, Any]) -> None:
    assert killed["moments"]["killed"] == 12
    for study in killed["moments"]["studies"]:
        check_same(study, killed["whole"])


@pytest.mark.thorough
@pytest.mark.long
def test_a_search_whose_processes_are_killed_ends_as_if_they_had_not_been(tmp_path: Path) -> None:
    """One of two processes, then the coordinator; the other one ends with it."""
    answer = run_killing(tmp_path / "processes", "processes")
    assert answer["codes"] == [-signal.SIGKILL, 0]
    check_same(answer, answer["whole"])


def arguments(folder: Path, trials: int) -> list[str]:
    return [
        *("search", "--model", "deit_t", "--budget", "60MB", "--batch-size", "4", "--image-size", "48"),
        *("--proxy-size", "32", "--train-size", "40", "--val-size", "20", "--epochs", "1", "--replicas", "0"),
        *("--weights", "random", "--device", "cpu", "--trials", str(trials), "--out", str(folder)),
    ]


def wait_until_training(folder: Path, number: int, process: subprocess.Popen[str]) -> None:
    """Wait until the trial of this number, or a later one, runs."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "records").exists() and "RUNNING" in states(folder)[number:]:
            return
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"trial {number} never ran: {process.communicate(timeout=60)}")


def states(folder: Path) -> list[str]:
    """States of the trials in the database, as another process sees them."""
    with sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True, timeout=10) as database:
        return [row[0] for row in database.execute("SELECT state FROM trials ORDER BY number")]


@pytest.mark.thorough
@pytest.mark.long
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(cli: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "bsr_explorer", *arguments(folder, 12)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until_training(folder, 1, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, progress = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in " ".join(progress.split())
    assert "Traceback" not in said + progress
    before = fingerprint(folder)
    number = len(before)
    assert states(folder)[number:] == ["RUNNING"]

    done = cli(*arguments(folder, number + 1), "--jobs", "0")
    assert done.code == 0, done.err
    assert f"trial {number} had not ended: it goes on" in done.out
    assert states(folder) == ["COMPLETE"] * (number + 1)
    assert fingerprint(folder).items() >= before.items()
    records = read_records(folder)
    known = [record.config for record in records.values()]
    study = Study.from_toml(folder / FILE)
    assert [config["method"] for config in known] == list(study.space.start[: number + 1])


# --- several fidelities ---------------------------------------------------------------------------------

SEVERAL: dict[str, Any] = {"sampler": "exact", "proxies": ("16x12",), "first": 2, "trials": 4, "replicas": 1}


@pytest.fixture(scope="module")
def several_once(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished study of 4 trials with a proxy, and of what is on its front another seed."""
    folder = tmp_path_factory.mktemp("several")
    assert open_search(make_study(**SEVERAL), folder).run(Watch()).because == "trials"
    return folder


@pytest.mark.thorough
def test_what_is_trained_at_a_proxy_is_no_trial_of_the_study(several_once: Path) -> None:
    records = read_records(several_once).values()
    proxies = [record for record in records if record.study.get("proxy")]
    own = [record for record in records if not record.study.get("proxy")]
    assert {record.status for record in proxies} == {"proxy"}
    assert {record.status for record in own} == {"finished"}
    assert {(r.fidelity["image_size"], r.fidelity["train_size"]) for r in proxies} == {(16, 12)}
    assert {(r.fidelity["image_size"], r.fidelity["train_size"]) for r in own} == {(32, 20)}
    assert len({record.key for record in proxies}) == len(proxies) > 6
    chosen = [record for record in own if not record.study["replica"]]
    assert len(chosen) == len({record.key for record in chosen}) == 4
    fresh = {record.key for record in own if record.study["replica"]}
    assert {point.record.key for point in front(points(read_records(several_once)))} <= fresh
    assert fresh <= {record.key for record in chosen}
    assert all(record.study["counted_bytes"] == record.predicted["peak_bytes"] for record in records)


@pytest.mark.thorough
@pytest.mark.parametrize("at", [3, 9])
def test_a_search_of_several_fidelities_goes_on_as_if_nothing_had_happened(
    several_once: Path, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path, at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        open_search(make_study(**SEVERAL), tmp_path).run(Watch(raise_at=at))
    assert open_search(make_study(**SEVERAL), tmp_path).run(Watch()).because == "trials"
    assert outcomes(tmp_path) == outcomes(several_once)


@pytest.mark.thorough
def test_a_lost_database_knows_what_was_trained_at_a_proxy(
    several_once: Path, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    shutil.copytree(several_once, tmp_path, dirs_exist_ok=True)
    before = open_search(make_study(**SEVERAL), tmp_path).book.counts()
    (tmp_path / DATABASE).unlink()
    search = open_search(make_study(**SEVERAL), tmp_path)
    assert search.book.counts() == before
    watch = Watch()
    assert search.run(watch).because == "trials"
    assert watch.started == []


# --- several at once ------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_trials_at_once_are_the_same_whatever_ends_first(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    """A proposal, and the bars of a trial, follow from the outcomes of trials that are old enough."""
    from bsr_explorer.search import coordinator as module

    asked: list[tuple[int, list[int], list[str]]] = []
    barred: list[int] = []
    propose, bars = module.propose, module.bars

    def noting(space: Any, sampler: str, seen: Any, pending: Any, done: Any, seed: int, **more: int) -> Any:
        asked.append((len(done), [trial.number for trial in seen], [c.key for c in pending]))
        return propose(space, sampler, seen, pending, done, seed, **more)

    def noting_bars(rungs: Any, size: int, others: Any, images: int) -> Any:
        barred.append(len(others))
        return bars(rungs, size, others, images)

    monkeypatch.setattr(module, "propose", noting)
    monkeypatch.setattr(module, "bars", noting_bars)
    study = make_study(trials=7, rungs=(1,), replicas=1, fidelity=Fidelity(32, 20, 20, epochs=2))
    found = []
    for seed in range(2):
        search = open_search(study, tmp_path / str(seed), InAnyOrder(3, seed))
        watch = Watch()
        assert search.run(watch).because == "trials"
        keys = [key for _, key, _ in watch.started]
        for number, seen, pending in asked:
            assert seen == list(range(max(0, number - 4)))  # with 3 jobs
            assert pending == keys[len(seen) : number]
        assert [number for number, _, _ in asked] == list(range(7))
        assert barred == [max(0, number - 4) for number in range(7)]
        found.append((outcomes(tmp_path / str(seed)), watch.ended))
        asked.clear()
        barred.clear()
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]  # they did end in another order


@pytest.mark.thorough
def test_so_many_run_at_once_and_never_the_same(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    workers = InAnyOrder(3, 0)
    most: list[int] = []

    class Counting(Watch):
        def trial_starts(self, number: int, candidate: Candidate, replica: int) -> None:
            super().trial_starts(number, candidate, replica)
            most.append(len(workers.tasks))

    search, watch = open_search(make_study(trials=6), tmp_path, workers), Counting()
    search.run(watch)
    assert max(most) == 3
    assert len({key for _, key, _ in watch.started}) == len(watch.started) == 6
    check_whole(search, 6)


@pytest.mark.thorough
def test_what_fails_is_made_up_for_whatever_the_order(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    def sometimes(config: Config, job: Job, progress: Any, *watch: Any) -> Record:
        if "last(k=1)" in str(config.how) or str(config.how) == "linear":
            raise RuntimeError("no such kernel")
        return run(config, job, progress, *watch)

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", sometimes)
    found = []
    for seed in range(2):
        search = open_search(make_study(trials=5), tmp_path / str(seed), InAnyOrder(2, seed))
        ended = search.run(Watch())
        assert (ended.because, ended.finished, ended.failed) == ("trials", 5, 2)
        found.append({n: outcome[:3] for n, outcome in outcomes(tmp_path / str(seed)).items()})
    assert found[0] == found[1]


@pytest.mark.thorough
def test_processes_find_what_one_process_finds(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    study = make_study(trials=5, replicas=1)
    workers = Processes(2, IMPORTS)
    search = open_search(study, tmp_path / "processes", workers)
    search.run(Watch())
    open_search(study, tmp_path / "here", InAnyOrder(2, 0)).run(Watch())
    assert outcomes(tmp_path / "processes") == outcomes(tmp_path / "here")
    assert not list((tmp_path / "processes").rglob("*.pt"))


# --- the front on fresh seeds ---------------------------------------------------------------------------


def front_of(folder: Path) -> list[str]:
    """Keys of the front of the trials that the search chose."""
    best, keys = -1.0, []
    own = [r for r in read_records(folder).values() if not r.study["replica"] and r.accuracy is not None]
    for record in sorted(own, key=lambda r: (r.study["counted_bytes"], -(r.accuracy or 0))):
        if (record.accuracy or 0) > best:
            best = record.accuracy or 0
            keys.append(record.key)
    return keys


def test_the_front_is_trained_again_on_fresh_seeds(
    make_study: MakeStudy, open_search: OpenSearch, finished_once: Path, study_folder: Path
) -> None:
    search, watch = open_search(make_study(replicas=2), study_folder), Watch()
    ended = search.run(watch)
    assert (ended.because, ended.finished) == ("trials", 7)  # they are no trials of the search
    assert first(7, outcomes(study_folder)) == outcomes(finished_once)
    front = front_of(study_folder)
    assert [(key, replica) for _, key, replica in watch.started] == [
        *((key, 1) for key in front),
        *((key, 2) for key in front),
    ]
    records = list(read_records(study_folder).values())
    assert len({record.seed for record in records}) == len(records)
    attrs = [trial.user_attrs for trial in search.book.trials()]
    assert [a["replica"] for a in attrs] == [record.study["replica"] for record in records]
    assert [a["seed"] for a in attrs] == [record.seed for record in records]


@pytest.mark.thorough
def test_fresh_seeds_go_on_where_they_were(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    study = make_study(trials=4, replicas=2)
    with pytest.raises(KeyboardInterrupt):
        open_search(study, tmp_path / "a").run(Watch(raise_at=5))
    open_search(study, tmp_path / "a").run(Watch())
    open_search(study, tmp_path / "b").run(Watch())
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "b")
    again = Watch()
    open_search(study, tmp_path / "a").run(again)
    assert again.started == []


@pytest.mark.thorough
def test_more_trials_bring_fresh_seeds_to_what_is_new_on_the_front(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    open_search(make_study(trials=3, replicas=1), tmp_path).run(Watch())
    before = {r.key for r in read_records(tmp_path).values() if r.study["replica"]}
    watch = Watch()
    open_search(make_study(trials=7, replicas=1), tmp_path).run(watch)
    begun = [key for _, key, replica in watch.started if replica]
    assert set(begun) == set(front_of(tmp_path)) - before
    assert len(begun) == len(set(begun))


def test_fresh_seeds_heed_the_time(make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path) -> None:
    search = open_search(make_study(trials=2, replicas=3, time_limit=30.0), tmp_path)
    ended = search.run(Watch(), lambda candidate: 60.0 if len(search.book) >= 3 else 1.0)
    assert (ended.because, ended.finished) == ("time", 2)
    assert len(search.book) == 3


# --- rungs ----------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_hopeless_trial_stops_at_its_rung(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    asked: list[tuple[int, int]] = []

    def no_mercy(rungs: Any, size: int, others: Any, images: int) -> dict[int, float]:
        asked.append((len(others), images))
        return {rung: 1.1 if len(others) == 3 else -math.inf for rung in rungs}

    monkeypatch.setattr("bsr_explorer.search.coordinator.bars", no_mercy)
    study = make_study(trials=5, rungs=(1, 2), replicas=1, fidelity=Fidelity(32, 20, 20, epochs=3))
    search = open_search(study, tmp_path)
    ended = search.run(Watch())
    assert (ended.because, ended.finished, ended.failed) == ("trials", 5, 0)
    assert asked == [(0, 20), (1, 20), (2, 20), (3, 20), (4, 20)]  # and fresh seeds have none
    records, trials = read_records(tmp_path), search.book.trials()
    assert [r.status for r in records.values()][:5] == [*["finished"] * 3, "stopped", "finished"]
    assert trials[3].state == TrialState.PRUNED
    assert trials[3].values is None
    assert trials[3].user_attrs["reason"] == records[3].reason
    assert list(trials[3].user_attrs["history"]) == ["1"]
    assert list(trials[4].user_attrs["history"]) == ["1", "2", "3"]
    assert list(trials[5].user_attrs["history"]) == ["3"]
    assert "stopped" not in {records[number].status for number in records if number > 4}


# --- trials that end without a record -------------------------------------------------------------------


class Crashing(Here):
    """Trials of some numbers crash as often as it says, in so many ways."""

    def __init__(self, crashes: dict[int, list[Any]]) -> None:
        super().__init__()
        self.crashes = crashes

    def wait(self, progress: Any, seconds: float) -> Any:
        assert self._task is not None
        number = self._task.number
        if self.crashes.get(number):
            self._task, kind = None, self.crashes[number].pop(0)
            return [Crashed(number, kind, f"a {kind}", "last words")]
        return super().wait(progress, seconds)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        (["crash"], "finished"),
        (["timeout"], "finished"),
        (["crash", "crash"], "failed"),
        (["crash", "timeout"], "failed"),
        (["lost"] * 5, "finished"),
        (["lost"] * 6, "failed"),
        (["lost", "crash", "lost"], "finished"),
        (["out_of_memory"], "out_of_memory"),
    ],
    ids=str,
)
def test_a_crash_ends_that_trial_alone(
    make_study: MakeStudy,
    open_search: OpenSearch,
    finished_once: Path,
    tmp_path: Path,
    kinds: list[Any],
    status: str,
) -> None:
    workers = Crashing({1: list(kinds)})
    search, watch = open_search(make_study(trials=3), tmp_path, workers), Watch()
    ended = search.run(watch)
    lost = status != "finished"
    assert (ended.because, ended.finished, ended.failed) == ("trials", 3, int(lost))
    record, trial = read_records(tmp_path)[1], search.book.trials()[1]
    assert record.status == status
    attempts = [{"kind": kind, "reason": f"a {kind}", "tail": "last words"} for kind in kinds]
    assert record.study["attempts"] == trial.user_attrs["attempts"] == attempts
    assert watch.crashed == [(1, f"a {kind}") for kind in kinds[: len(kinds) - lost]]
    assert trial.state == (FAILED if lost else DONE)
    if lost:
        assert record.reason.startswith(f"a {kinds[-1]}")
        assert record.reason == trial.user_attrs["reason"]
        assert record.predicted["peak_bytes"] == record.study["counted_bytes"]
        assert (record.seed, record.key) == (trial.user_attrs["seed"], trial.user_attrs["key"])
    else:
        assert outcomes(tmp_path) == first(3, outcomes(finished_once))
    assert "attempts" not in read_records(tmp_path)[0].study


def test_crashes_before_a_kill_count(make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path) -> None:
    class Stopping(Watch):
        def trial_crashed(self, number: int, reason: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_search(make_study(trials=2), tmp_path, Crashing({0: ["crash"]})).run(Stopping())
    search = open_search(make_study(trials=2), tmp_path, Crashing({0: ["crash"]}))
    search.run(Watch())
    record = read_records(tmp_path)[0]
    assert (record.status, record.reason) == ("failed", "a crash (attempt 2)")


@pytest.mark.thorough
def test_a_process_that_is_killed_goes_on_from_its_checkpoint(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    study = make_study(trials=2, fidelity=Fidelity(32, 20, 20, epochs=4))
    workers = Processes(1, IMPORTS)
    checkpoint = tmp_path / "killed" / "checkpoints" / "0001.pt"

    class Killing(Watch):
        def step(self, number: int, done: int, total: int, loss: float) -> None:
            super().step(number, done, total, loss)
            if checkpoint.exists() and not self.crashed:
                os.kill(workers.pid(number), signal.SIGKILL)

    search, watch = open_search(study, tmp_path / "killed", workers), Killing()
    search.run(watch)
    assert {number for number, _ in watch.crashed} <= {1}  # unless it was faster than the news of it
    if watch.crashed:
        (attempt,) = read_records(tmp_path / "killed")[1].study["attempts"]
        assert attempt["reason"].startswith("its process was killed by SIGKILL")
    open_search(study, tmp_path / "whole").run(Watch())
    assert outcomes(tmp_path / "killed") == outcomes(tmp_path / "whole")
    assert not checkpoint.exists()


def test_a_trial_has_ten_times_as_long_as_is_expected(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    limits: list[float | None] = []

    class Noting(Here):
        def begin(self, task: Task) -> None:
            limits.append(task.seconds)
            super().begin(task)

    search = open_search(make_study(trials=3), tmp_path, Noting())
    expected = iter([1.0, 100.0])
    with contextlib.suppress(StopIteration):
        search.run(Watch(), lambda candidate: next(expected))
    search.run(Watch(), timeout=7.0)
    assert limits == [600.0, 1000.0, 7.0]


@pytest.mark.thorough
@pytest.mark.parametrize("accuracy", [math.nan, math.inf, -math.inf])
def test_an_accuracy_that_is_no_number_is_no_result(
    monkeypatch: pytest.MonkeyPatch,
    make_study: MakeStudy,
    open_search: OpenSearch,
    tmp_path: Path,
    accuracy: float,
) -> None:
    def wrong(config: Config, job: Job, progress: Any, *watch: Any) -> Record:
        record = run(config, job, progress, *watch)
        return replace(record, accuracy=accuracy) if str(config.how) == "linear" else record

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", wrong)
    search = open_search(make_study(trials=2), tmp_path)
    ended = search.run(Watch())
    assert (ended.finished, ended.failed) == (2, 1)
    record, trial = read_records(tmp_path)[0], search.book.trials()[0]
    assert (record.status, record.accuracy) == ("diverged", None)
    assert record.reason == trial.user_attrs["reason"] == f"the accuracy was {accuracy}"
    assert trial.state == FAILED


@pytest.mark.thorough
def test_running_out_of_memory_is_recorded_against_the_prediction(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    def sometimes(config: Config, job: Job, progress: Any, *watch: Any) -> Record:
        if "last(k=1)" in str(config.how):
            raise MemoryError
        return run(config, job, progress, *watch)

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", sometimes)
    search = open_search(make_study(), tmp_path)
    search.run(Watch())
    (record,) = [r for r in read_records(tmp_path).values() if r.status == "out_of_memory"]
    assert record.study["room_bytes"] == Here().room("cpu")
    assert record.predicted["peak_bytes"] == record.study["counted_bytes"]
    assert "the predicted peak is" in record.reason
    assert search.book.trials()[record.study["number"]].state == FAILED


# --- asked for again ------------------------------------------------------------------------------------


def fail_some(monkeypatch: pytest.MonkeyPatch, errors: dict[str, Exception]) -> None:
    def sometimes(config: Config, job: Job, progress: Any, *watch: Any) -> Record:
        if str(config.how) in errors:
            raise errors[str(config.how)]
        return run(config, job, progress, *watch)

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", sometimes)


@pytest.mark.thorough
def test_what_failed_can_be_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
    make_study: MakeStudy,
    open_search: OpenSearch,
    finished_once: Path,
    tmp_path: Path,
) -> None:
    with monkeypatch.context() as patch:
        fail_some(patch, {"linear": RuntimeError("no"), "last(k=1)": MemoryError("no")})
        open_search(make_study(trials=5), tmp_path).run(Watch())
    failed = [number for number, r in read_records(tmp_path).items() if r.status != "finished"]
    search = open_search(make_study(trials=9), tmp_path)
    asked, refused = search.retry(None)
    assert asked == [7]
    assert len(refused) == 1
    assert refused[0].startswith(f"trial {failed[1]}: out of memory")
    assert "it had " in refused[0]
    assert [t.state for t in search.book.trials()][7:] == [TrialState.WAITING]

    watch = Watch()
    ended = search.run(watch, new=False)
    assert [number for number, _, _ in watch.started] == [7]  # and none of the study's own
    assert (ended.because, ended.finished) == ("trials", 6)
    linear = next(o for o in outcomes(finished_once).values() if o[0] == watch.started[0][1])
    assert outcomes(tmp_path)[7] == linear
    assert search.retry(None) == ([], refused)
    assert search.retry([failed[0]]) == ([], [f"trial {failed[0]}: trial 7 has taken its place"])
    with pytest.raises(UserError, match=r"TRIAL: 7 is no trial that failed; those are \[0, 2\]"):
        search.retry([7])


def test_what_ran_out_of_memory_can_have_more(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        fail_some(patch, {"linear": MemoryError("no")})
        open_search(make_study(trials=2), tmp_path, InAnyOrder(1, 0)).run(Watch())
    search = open_search(make_study(trials=2), tmp_path)
    assert search.retry(None)[0] == []
    monkeypatch.setattr(Here, "room", lambda self, device: 10**15)
    assert search.retry(None) == ([3], [])


def test_what_diverged_would_do_so_again(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    short = replace(RECIPES["short"], lr=1e30, clip=None, warmup_steps=0)
    monkeypatch.setitem(RECIPES, "short", short)
    search = open_search(make_study(space=SpaceSpec(("linear",), 0, ())), tmp_path)
    search.run(Watch())
    asked, refused = search.retry(None)
    assert asked == []
    assert refused[0].startswith("trial 0: the loss was ")
    assert refused[0].endswith("; with the same seed it would do so again")


def test_what_is_asked_for_outlives_a_kill(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        fail_some(patch, {"linear": RuntimeError("no")})
        open_search(make_study(trials=2), tmp_path).run(Watch())
    assert open_search(make_study(trials=2), tmp_path).retry(None) == ([3], [])
    watch = Watch()
    search = open_search(make_study(trials=2), tmp_path)
    search.run(watch)
    assert [number for number, _, _ in watch.started] == [3]
    assert search.retry(None) == ([], [])
