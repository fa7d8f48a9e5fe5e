"""A comparison: what it runs, and that nothing that ends it early loses or repeats a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.compare import run as module
from bsr_explorer.compare.run import compare
from bsr_explorer.compare.task import tasks
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.finetune.run import run
from bsr_explorer.finetune.step_times import Stepper
from bsr_explorer.store.comparison_folder import STEPS, read_runs, read_step_times
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import Record, read_records, write_record

MakeComparison = Callable[..., Any]

BUDGET = "1400KB"
"""Holds neither full fine-tuning nor what is checkpointed."""


def files(folder: Path) -> dict[str, bytes]:
    """What the comparison itself says does not count: it is written each time."""
    kept = [folder / STEPS, *sorted((folder / "records").iterdir())]
    return {path.name: path.read_bytes() for path in kept}


def test_each_method_has_a_record_a_seed(compared_once: Path, make_comparison: MakeComparison) -> None:
    made, records = make_comparison(), read_records(compared_once)
    assert list(records) == list(range(6))
    assert [(r.key, r.seed) for r in records.values()] == [
        (entry.key, seed) for seed in (0, 1) for entry in made.entries
    ]
    for record in records.values():
        assert record.status == "finished"
        assert (record.config["image_size"], record.fidelity["image_size"]) == (48, 32)
        assert record.measured is not None
        assert record.measured["saved_bytes"] == record.measured["predicted_saved_bytes"]
    times = read_step_times(compared_once)
    assert {key: len(taken) for key, taken in times.seconds.items()} == {e.key: 3 for e in made.entries}


def test_a_run_is_the_same_as_by_itself(compared_once: Path, toy: str) -> None:
    record = read_records(compared_once)[5]
    job = Job("digits", Fidelity(32, 20, 20, 1), "random", seed=1)
    alone_ = run(Config(toy, 48, batch_size=4, method="last(k=1)"), job)
    assert (alone_.accuracy, alone_.losses) == (record.accuracy, record.losses)


def test_what_is_done_is_not_done_again(
    compared_folder: Path, make_comparison: MakeComparison, still: Any, tmp_path: Path
) -> None:
    before = files(compared_folder)
    compare(make_comparison(), compared_folder, tmp_path, 3, still)
    assert still.ended == []
    assert files(compared_folder) == before


def test_more_seeds_and_methods_run_only_what_is_missing(
    compared_folder: Path, make_comparison: MakeComparison, still: Any, tmp_path: Path
) -> None:
    before = files(compared_folder)
    compare(make_comparison("linear, last(k=2)"), compared_folder, tmp_path, 1, still)
    assert still.ended == ["step times", "last(k=2), seed 0", "last(k=2), seed 1"]
    compare(make_comparison("linear", seeds=3), compared_folder, tmp_path, 1, still)
    assert still.ended[3:] == ["linear, seed 2"]
    after = files(compared_folder)
    assert {name: content for name, content in after.items() if name in before and name != STEPS} == {
        name: content for name, content in before.items() if name != STEPS
    }
    assert len(after) == len(before) + 3


def test_what_does_not_fit_is_never_run(
    make_comparison: MakeComparison, monkeypatch: pytest.MonkeyPatch, still: Any, tmp_path: Path
) -> None:
    seen: list[str] = []

    def noted(config: Config, *arguments: Any) -> Record:
        seen.append(str(config.method))
        return run(config, *arguments)

    def timed(config: Config) -> Stepper:
        seen.append(str(config.method))
        return Stepper(config)

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", noted)
    monkeypatch.setattr("bsr_explorer.finetune.step_times.Stepper", timed)
    made = make_comparison("full, linear, checkpoint", budget=BUDGET, seeds=1)
    compare(made, tmp_path / "here", tmp_path, 1, still)
    assert seen == ["linear", "linear"]
    assert still.ended == ["step times", "linear, seed 0"]


@pytest.mark.parametrize("rounds", [0, 1])
def test_no_rounds_time_nothing(
    make_comparison: MakeComparison, still: Any, tmp_path: Path, rounds: int
) -> None:
    left = tasks(make_comparison("linear"), tmp_path, rounds)
    assert [task.what for task in left][:-2] == ["step times"] * rounds


def test_an_interrupted_comparison_goes_on(
    compared_once: Path,
    make_comparison: MakeComparison,
    monkeypatch: pytest.MonkeyPatch,
    still: Any,
    tmp_path: Path,
) -> None:
    begun: list[int] = []

    def stopped(*arguments: Any) -> Record:
        begun.append(len(begun))
        if len(begun) == 3:
            raise KeyboardInterrupt
        return run(*arguments)

    folder = tmp_path / "here"
    with monkeypatch.context() as patch:
        patch.setattr("bsr_explorer.finetune.attempt.run", stopped)
        with pytest.raises(KeyboardInterrupt):
            compare(make_comparison(), folder, tmp_path, 1, still)
    assert len(read_records(folder)) == 2
    compare(make_comparison(), folder, tmp_path, 1, still)
    assert len(still.ended) == 7
    whole = read_records(compared_once).values()
    assert [(r.key, r.seed, r.accuracy, r.losses) for r in read_records(folder).values()] == [
        (r.key, r.seed, r.accuracy, r.losses) for r in whole
    ]


def test_what_failed_is_tried_again_and_what_diverged_is_not(
    compared_folder: Path, make_comparison: MakeComparison, still: Any, tmp_path: Path
) -> None:
    records = read_records(compared_folder)
    write_record(compared_folder, 1, replace(records[1], status="failed", accuracy=None))
    write_record(compared_folder, 2, replace(records[2], status="diverged", accuracy=None))
    compare(make_comparison(), compared_folder, tmp_path, 3, still)
    assert still.ended == ["linear, seed 0"]
    after = read_records(compared_folder)
    assert list(after) == list(records)
    assert (after[1].status, after[1].accuracy) == ("finished", records[1].accuracy)
    assert after[2].status == "diverged"


@pytest.mark.parametrize(
    ("error", "status"), [("no such kernel", "failed"), ("not enough memory", "out_of_memory")]
)
def test_an_error_is_a_record_and_the_others_go_on(
    make_comparison: MakeComparison,
    monkeypatch: pytest.MonkeyPatch,
    still: Any,
    tmp_path: Path,
    error: str,
    status: str,
) -> None:
    def sometimes(config: Config, *arguments: Any) -> Record:
        if str(config.method) == "full":
            raise RuntimeError(error)
        return run(config, *arguments)

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", sometimes)
    made = make_comparison("full, linear", seeds=1)
    compare(made, tmp_path / "here", tmp_path, 0, still)
    failed, finished = read_runs(made, tmp_path / "here").values()
    assert (failed.status, failed.key) == (status, made.full.key)
    assert failed.reason.endswith(error)
    assert finished.status == "finished"


def test_what_cannot_be_timed_leaves_the_others(
    make_comparison: MakeComparison, monkeypatch: pytest.MonkeyPatch, still: Any, tmp_path: Path
) -> None:
    def sometimes(config: Config) -> Stepper:
        if str(config.method) == "full":
            raise RuntimeError("not enough memory")
        return Stepper(config)

    monkeypatch.setattr("bsr_explorer.finetune.step_times.Stepper", sometimes)
    made = make_comparison("full, linear", seeds=1)
    compare(made, tmp_path / "here", tmp_path, 2, still)
    times = read_step_times(tmp_path / "here")
    assert times.failed == {made.full.key: "RuntimeError: not enough memory"}
    assert {key: len(taken) for key, taken in times.seconds.items()} == {made.entries[1].key: 2}


def test_two_at_once_are_refused(
    compared_folder: Path, make_comparison: MakeComparison, still: Any, tmp_path: Path
) -> None:
    with (
        alone(compared_folder, module.LOCK, "comparison"),
        pytest.raises(UserError, match="--out: another comparison is at work"),
    ):
        compare(make_comparison(), compared_folder, tmp_path, 1, still)
