"""The search: what it trains, what it writes, and that nothing that ends it early loses or repeats a trial."""

from __future__ import annotations

import contextlib
import itertools
import json
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

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.run import Job, run
from bsr_explorer.search.book import DATABASE, Book
from bsr_explorer.search.search import LOCK, Search, open_folder, stored_study
from bsr_explorer.search.space import Candidate
from bsr_explorer.store.records import Record, read_records, write_record
from bsr_explorer.store.study import FILE, SpaceSpec, Study
from bsr_explorer.train.recipes import RECIPES

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


def test_the_same_seed_finds_the_same(
    make_study: MakeStudy, open_search: OpenSearch, finished_once: Path, tmp_path: Path
) -> None:
    open_search(make_study(), tmp_path).run(Watch())
    assert outcomes(tmp_path) == outcomes(finished_once)


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

    monkeypatch.setattr("bsr_explorer.run.run", meanwhile)
    search = open_search(make_study(trials=2), tmp_path)
    search.run(Watch())
    check_whole(search, 2)


# --- interrupted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, UserError])
def test_what_ends_a_search_during_a_trial_loses_nothing(
    make_study: MakeStudy,
    open_search: OpenSearch,
    finished_once: Path,
    tmp_path: Path,
    error: type[BaseException],
) -> None:
    first, watch = open_search(make_study(), tmp_path), Watch(raise_at=2, error=error)
    with pytest.raises(error):
        first.run(watch)
    assert [trial.number for trial in first.book.trials(RUN)] == [2]
    before, key = fingerprint(tmp_path), watch.started[-1][1]
    assert list(before) == ["0000.json", "0001.json"]

    second, watch = open_search(make_study(), tmp_path), Watch()
    second.run(watch)
    assert watch.started[0] == (2, key, 0)
    assert fingerprint(tmp_path).items() >= before.items()
    check_whole(second, 7)
    assert outcomes(tmp_path) == outcomes(finished_once)


def test_what_is_trained_again_keeps_its_name(
    make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        open_search(make_study(), tmp_path).run(Watch(raise_at=2))
    search = open_search(make_study(), tmp_path)
    search.run(Watch())
    known = [str(c.config.how) for c in search.space.known if search.space.fits(c)]
    assert [record.method for record in read_records(tmp_path).values()][:6] == known


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
    def sometimes(config: Config, job: Job, progress: Any) -> Record:
        if "last(k=1)" in str(config.how):
            raise RuntimeError("no such kernel")
        return run(config, job, progress)

    monkeypatch.setattr("bsr_explorer.run.run", sometimes)
    search, watch = open_search(make_study(), tmp_path), Watch()
    ended = search.run(watch)
    assert (ended.because, ended.finished, ended.failed) == ("trials", 7, 1)
    check_whole(search, 7)
    (failed,) = [number for number, r in read_records(tmp_path).items() if r.status == "failed"]
    record = read_records(tmp_path)[failed]
    assert record.method == "last(k=1)"
    assert record.accuracy is None
    assert record.predicted["peak_bytes"] == record.study["counted_bytes"]
    assert record.reason.startswith("RuntimeError at test_search.py:")
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
    def fail(config: Config, job: Job, progress: Any) -> Record:
        raise RuntimeError("no")

    monkeypatch.setattr("bsr_explorer.run.run", fail)
    space = SpaceSpec(("linear",), max_blocks=0, drop_at=())
    search = open_search(make_study(space=space), tmp_path)
    search.run(Watch())
    assert read_records(tmp_path)[0].key == search.space.known[0].key


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

    def sometimes(config: Config, job: Job, progress: Any) -> Record:
        begun.append(config)
        if failing[len(begun) - 1] == "f":
            raise RuntimeError("no such kernel")
        return run(config, job, progress)

    monkeypatch.setattr("bsr_explorer.run.run", sometimes)
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
    from bsr_explorer.config import Fidelity

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
    return run_killing(tmp_path_factory.mktemp("killed") / "here", "20")


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


def test_a_search_that_is_killed_at_each_point_ends_as_if_it_had_not_been(killed: dict[str, Any]) -> None:
    codes = killed["points"]["codes"]
    assert codes.pop("at last") == 0
    assert set(codes.values()) == {-signal.SIGKILL}
    assert len(codes) == 9
    check_same(killed["points"], killed["whole"])


def test_a_search_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(killed: dict[str, Any]) -> None:
    assert killed["moments"]["killed"] == 20
    for study in killed["moments"]["studies"]:
        check_same(study, killed["whole"])


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


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(cli: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "bsr_explorer", *arguments(folder, 12)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until_training(folder, 1, process)
    process.send_signal(signal.SIGINT)
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
