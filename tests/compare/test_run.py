"""A comparison: what it predicts, what it runs, and that nothing that ends it early loses or repeats a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.compare import run as module
from bsr_explorer.compare.folder import keep, settle, stored
from bsr_explorer.compare.plan import brief, plan_file
from bsr_explorer.compare.run import compare
from bsr_explorer.compare.task import Task, tasks
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.finetune.run import run
from bsr_explorer.finetune.step_times import Stepper
from bsr_explorer.methods import parse_method
from bsr_explorer.prediction import counted_bytes, largest_batch, predict
from bsr_explorer.store.comparison_file import ComparisonFile
from bsr_explorer.store.comparison_folder import FILE, STEPS, read_runs, read_step_times
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import Record, read_records, write_record

MakeComparison = Callable[..., Any]

BUDGET = "1400KB"
"""Holds neither full fine-tuning nor what is checkpointed."""


def files(folder: Path) -> dict[str, bytes]:
    """What the comparison itself says does not count: it is written each time."""
    kept = [folder / STEPS, *sorted((folder / "records").iterdir())]
    return {path.name: path.read_bytes() for path in kept}


# --- what is predicted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", ["peak", "saved", "published"])
def test_an_entry_is_the_prediction_at_the_configurations_own_size(
    make_comparison: MakeComparison, toy: str, counts: str
) -> None:
    made = make_comparison(budget="1400KB", counts=counts)
    for entry, method in zip(
        (made.full, *made.entries), ("full", "full", "linear", "last(k=1)"), strict=True
    ):
        config = Config(toy, 48, batch_size=4, method=method)
        costs = predict(config)
        assert (entry.method, entry.label, entry.key) == (method, method, config.key(4))
        assert (entry.peak_bytes, entry.saved_bytes) == (costs.peak_bytes, costs.saved_bytes)
        assert entry.train_flops == costs.train_flops
        assert entry.counted_bytes == counted_bytes(config, counts)
        assert entry.fits == (entry.counted_bytes <= 1_400_000)
        assert entry.largest_batch == largest_batch(config, 1_400_000, counts)


def test_without_a_budget_everything_fits(make_comparison: MakeComparison) -> None:
    made = make_comparison()
    assert made.budget_bytes is None
    assert made.fitting == list(made.entries)
    assert {entry.largest_batch for entry in made.entries} == {None}


def test_full_fine_tuning_is_the_reference_even_where_it_is_not_compared(
    make_comparison: MakeComparison,
) -> None:
    made = make_comparison("linear", budget=BUDGET)
    assert [entry.method for entry in made.entries] == ["linear"]
    assert (made.full.method, made.full.fits) == ("full", False)
    assert made.full.largest_batch is not None


def test_the_same_experiment_twice_is_refused(make_comparison: MakeComparison) -> None:
    with pytest.raises(UserError, match=r"--methods: bsr\(.*\) is the same as last\(k=1\) in this model"):
        make_comparison("full, last(k=1), bsr(blocks=(3,), keep={})")


def test_a_budget_for_nothing_is_refused_with_the_least(make_comparison: MakeComparison) -> None:
    with pytest.raises(
        UserError, match=r"--budget: 100KB holds none of the methods at batch 4; linear needs"
    ):
        make_comparison(budget="100KB")


@pytest.mark.parametrize("seeds", [0, -1])
def test_no_seeds_are_refused(make_comparison: MakeComparison, seeds: int) -> None:
    with pytest.raises(UserError, match=f"--seeds: {seeds} must be a whole number of at least 1"):
        make_comparison(seeds=seeds)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("full", "full"),
        ("bsr()", "bsr"),
        ("bsr(keep={})", "bsr(keep={})"),
        ("last", "last(k=3)"),
        ("last(k=1)+checkpoint()", "last(k=1)+checkpoint"),
        ("mesa(faithful=False)", "mesa(faithful=False)"),  # other defaults follow from it
        ("checkpoint(blocks=(1, 0))", "checkpoint(blocks=(0, 1))"),
    ],
)
def test_a_long_label_leaves_out_defaults(expression: str, said: str) -> None:
    assert brief(parse_method(expression)) == said
    assert parse_method(said) == parse_method(expression)


@pytest.mark.parametrize(
    ("method", "ruled"),
    [
        ("full", True),
        ("linear", True),
        ("last(k=2)", True),
        ("bsr(blocks=(1, 3), keep={2: 0.5})", True),
        ("bitfit", False),
        ("mesa", False),
        ("backrazor(ratio=0.5)", False),
        ("checkpoint", False),
        ("last(k=1)+offload", False),
    ],
)
def test_the_published_accounting_is_said_where_it_has_a_rule(
    make_comparison: MakeComparison, toy: str, method: str, ruled: bool
) -> None:
    (entry,) = make_comparison(method).entries
    counted = counted_bytes(Config(toy, 48, batch_size=4, method=method), "published")
    assert entry.published_bytes == (counted if ruled else None)


def test_a_file_is_a_comparison_for_each_of_its_data_sets(toy: str) -> None:
    asked = ComparisonFile(
        "several",
        (parse_method("full"), parse_method("last(k=1)")),
        Config(toy, 48, batch_size=4),
        ("digits", "cifar100"),
        fidelity=Fidelity(recipe="short"),
        seeds=2,
        budget=BUDGET,
    )
    small, large = plan_file(asked)
    assert (small.data, small.config["num_classes"]) == ("digits", 10)
    assert (large.data, large.config["num_classes"]) == ("cifar100", 100)
    for made in (small, large):
        assert [entry.method for entry in made.entries] == ["full", "last(k=1)"]
        assert (made.seeds, made.budget, made.settled) == (2, BUDGET, False)
    assert large.entries[1].peak_bytes > small.entries[1].peak_bytes


# --- what is left open ----------------------------------------------------------------------------------


def test_what_is_left_open_is_settled_once(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = settle(make_comparison(fidelity=Fidelity()), tmp_path, 32)
    assert made.fidelity == {
        "image_size": 32,
        "train_size": 500,
        "val_size": 359,  # all that digits has
        "epochs": 3,
        "recipe": "short",
        "views": None,
        "skip": None,
        "protocol": "held-out",
    }
    assert made.weights == "random"


def test_all_images_are_all_of_them(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = make_comparison(fidelity=Fidelity())
    assert not made.settled
    made = settle(made, tmp_path, 48, images=None)
    assert made.settled
    assert (made.trained_at, made.fidelity["train_size"], made.fidelity["val_size"]) == (48, 1078, 359)


def test_the_authors_protocol_takes_all_images(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = settle(make_comparison(fidelity=Fidelity(protocol="authors")), tmp_path, 32)
    assert (made.fidelity["train_size"], made.fidelity["val_size"]) == (1437, 360)
    assert settle(made, tmp_path, 32) == made
    with pytest.raises(UserError, match="--train-size: 100 is not allowed with --protocol authors"):
        settle(make_comparison(fidelity=Fidelity(protocol="authors", train_size=100)), tmp_path, 32)


def test_runs_of_two_protocols_do_not_stand_in_one_folder(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    other = make_comparison(fidelity=Fidelity(protocol="authors"))
    with pytest.raises(UserError, match=r"fidelity\.protocol: 'held-out' → 'authors'"):
        stored(other, compared_folder)


def test_a_comparison_of_before_there_were_protocols_goes_on(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    path = compared_folder / "comparison.json"
    values = json.loads(path.read_text())
    del values["fidelity"]["protocol"]
    path.write_text(json.dumps(values))
    assert stored(make_comparison(), compared_folder) == make_comparison()


def test_what_was_said_is_kept(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = make_comparison()
    assert settle(made, tmp_path, 16) == made


def test_a_recipe_of_steps_has_as_many_epochs_as_they_take(
    make_comparison: MakeComparison, toy: str, tmp_path: Path
) -> None:
    config = Config(toy, 48, batch_size=4, optimizer="sgd_momentum")
    fidelity = Fidelity(train_size=40, recipe="paper-vit-b")
    assert settle(make_comparison(config=config, fidelity=fidelity), tmp_path, 32).fidelity["epochs"] == 2000


def test_sizes_that_do_not_exist_are_refused(make_comparison: MakeComparison, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--train-size: 99999 images of digits is out of range"):
        settle(make_comparison(fidelity=Fidelity(train_size=99_999)), tmp_path, 32)


# --- what is run ----------------------------------------------------------------------------------------


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


def test_tasks_weigh_what_they_compute(make_comparison: MakeComparison, toy: str, tmp_path: Path) -> None:
    first, *others = tasks(make_comparison("linear", seeds=1), tmp_path, 2)
    own = predict(Config(toy, 48, batch_size=4, method="linear"))
    trained = predict(Config(toy, 32, batch_size=4, method="linear"))
    assert first == Task("step times", 3 * own.train_flops)
    assert [task.flops for task in others] == [5 * trained.train_flops + 5 * trained.forward_flops]


# --- the folder -----------------------------------------------------------------------------------------


def test_a_folder_completes_what_is_left_open(
    compared_once: Path, make_comparison: MakeComparison, tmp_path: Path
) -> None:
    asked = make_comparison("linear", fidelity=Fidelity(), weights="auto", seeds=5, budget=BUDGET)
    found = stored(asked, compared_once)
    assert found is not None
    assert (found.fidelity, found.weights) == (make_comparison().fidelity, "random")
    assert (found.seeds, found.budget, len(found.entries)) == (5, BUDGET, 1)
    assert stored(asked, tmp_path) is None


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"data": "fashion_mnist"}, "data: 'digits' → 'fashion_mnist'"),
        ({"weights": "offline"}, "weights: 'random' → 'offline'"),
        ({"fidelity": Fidelity(32, 20, 20, 2)}, "fidelity.epochs: 1 → 2"),
        ({"config": {"batch_size": 2, "precision": "bf16"}}, "batch_size: 4 → 2; precision: 'fp32' → 'bf16'"),
    ],
)
def test_another_comparison_is_refused_with_the_difference(
    compared_once: Path, make_comparison: MakeComparison, toy: str, changed: dict[str, Any], difference: str
) -> None:
    if "config" in changed:
        changed = {"config": replace(Config(toy, 48, batch_size=4), **changed["config"])}
    with pytest.raises(UserError) as refused:
        stored(make_comparison(**changed), compared_once)
    assert f"--out: {compared_once} holds another comparison ({difference})" in str(refused.value)


def test_costs_alone_bind_nobody(
    compared_folder: Path, make_comparison: MakeComparison, tmp_path: Path
) -> None:
    costs = make_comparison(fidelity=Fidelity(), weights="auto")
    keep(costs, tmp_path / "costs")
    assert stored(make_comparison(data="fashion_mnist"), tmp_path / "costs") is None
    found = stored(costs, compared_folder)  # which does not forget what it has decided
    assert found is not None and found.settled


def test_nothing_is_kept_beside_one_at_work(make_comparison: MakeComparison, tmp_path: Path) -> None:
    with (
        alone(tmp_path, module.LOCK, "comparison"),
        pytest.raises(UserError, match="--out: another comparison is at work"),
    ):
        keep(make_comparison(), tmp_path)


def test_records_of_something_else_are_refused(
    compared_folder: Path, study_folder: Path, make_comparison: MakeComparison
) -> None:
    with pytest.raises(UserError, match="is the folder of a study, not of a comparison"):
        stored(make_comparison(), study_folder)
    record = read_records(compared_folder)[0]
    write_record(compared_folder, 9, replace(record, data="fashion_mnist"))
    with pytest.raises(UserError, match=r"0009\.json is not of this comparison; move it away"):
        stored(make_comparison(), compared_folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"entries": []}', '{"entries": [{"a": 1}]}'])
def test_a_broken_file_is_named(compared_folder: Path, make_comparison: MakeComparison, content: str) -> None:
    (compared_folder / FILE).write_text(content)
    with pytest.raises(UserError, match=f"{compared_folder / FILE}: not a comparison"):
        stored(make_comparison(), compared_folder)
    (compared_folder / STEPS).write_text(content)
    with pytest.raises(UserError, match=f"{compared_folder / STEPS}: not the times of steps"):
        read_step_times(compared_folder)
