"""Fine-tuning into a record: the same each time, complete, and true to its prediction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data import splits as data
from bsr_explorer.data.images import ImageSplit
from bsr_explorer.errors import UserError
from bsr_explorer.finetune import build as build_module
from bsr_explorer.finetune import job as job_module
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.models.weights import create_model
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.store.records import Record
from bsr_explorer.train import loop
from bsr_explorer.train.recipes import RECIPES
from tests.finetune.tuning import BSR, CONFIG, PROXY, THREE, TWO, Weights, change_recipe, same, told, tune

pytestmark = pytest.mark.usefixtures("toy")


# --- the same each time ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_result(record: Record) -> None:
    again = tune(seed=3)
    assert (again.losses, again.accuracy, again.history) == (record.losses, record.accuracy, record.history)


def test_augmentation_follows_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    still = tune(seed=3).losses
    change_recipe(monkeypatch, augment="crop_flip")
    augmented = tune(seed=3).losses
    torch.manual_seed(12345)
    assert tune(seed=3).losses == augmented != still


def test_another_seed_gives_other_losses(record: Record) -> None:
    assert tune(seed=4).losses != record.losses


def test_the_result_does_not_depend_on_what_was_drawn_before(record: Record) -> None:
    torch.manual_seed(12345)
    torch.rand(7)
    assert tune(seed=3).losses == record.losses


# --- the record -----------------------------------------------------------------------------------------


def test_the_record_says_everything(record: Record) -> None:
    assert record.status == "finished"
    assert record.reason == ""
    assert record.config == CONFIG.to_dict()
    assert record.method == BSR
    assert record.key == CONFIG.key(depth=4)
    assert record.fidelity == asdict(PROXY)
    assert (record.data, record.seed, record.weights) == ("digits", 3, "random: seed 3")
    assert "validation 20" in record.split
    assert record.accuracy == record.history[-1]
    assert 0 <= record.accuracy <= 1
    assert len(record.losses) == 1
    assert 0 < record.step_seconds < record.seconds
    assert record.images_trained == 20
    assert record.provenance["device"] == "cpu"


def test_the_record_survives_json(record: Record) -> None:
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_the_fidelity_of_the_record_leaves_no_epochs_or_size_open() -> None:
    record = tune(fidelity=Fidelity(train_size=10, val_size=10))
    assert record.fidelity["image_size"] == CONFIG.image_size
    assert record.fidelity["epochs"] == RECIPES["short"].epochs == len(record.losses)


# --- number formats and micro-batches -------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "amp_bf16"},
        {"precision": "amp_fp16"},
        {"precision": "bf16"},
        {"optimizer": "adamw_8bit"},
    ],
    ids=str,
)
def test_it_learns_much_the_same_however_it_runs(record: Record, changes: dict[str, Any]) -> None:
    other = tune(replace(CONFIG, **changes), seed=3)
    assert other.losses == pytest.approx(record.losses, rel=0.05)
    assert other.config == {**record.config, **changes}


@pytest.mark.parametrize(
    "changes", [{"micro_batches": 4}, {"set_to_none": False}, {"implementation": "foreach"}]
)
def test_the_losses_are_the_same_but_for_rounding(record: Record, changes: dict[str, Any]) -> None:
    assert tune(replace(CONFIG, **changes), seed=3).losses == pytest.approx(record.losses, rel=1e-4)


# --- rungs and checkpoints ------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for whatever ends a process."""


def interrupted(at: int, config: Config, fidelity: Fidelity, **options: Any) -> None:
    """Train until a step is done."""

    def progress(done: int, total: int, loss: float) -> None:
        if done == at:
            raise Stopped

    with pytest.raises(Stopped):
        tune(config, fidelity, progress=progress, **options)


@pytest.mark.parametrize(
    ("changes", "augment"),
    [
        ({"method": "full"}, "crop_flip"),
        ({"method": f"{BSR}+mesa"}, "flip"),
        pytest.param(
            {"method": "full+mesa(bits=4, ema=0.5, faithful=False)", "precision": "amp_bf16"},
            "none",
            marks=pytest.mark.thorough,
        ),
        ({"method": "last(k=2)+backrazor(faithful=False)"}, "crop"),
        ({"method": f"{BSR}+checkpoint+offload", "micro_batches": 2}, "none"),
        pytest.param({"precision": "amp_fp16", "method": "full"}, "none", marks=pytest.mark.thorough),
        pytest.param(
            {"precision": "bf16", "optimizer": "adamw_8bit", "method": "last(k=1)"},
            "crop_flip",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {"set_to_none": False, "implementation": "fused", "batch_size": 12},
            "flip",
            marks=pytest.mark.thorough,
        ),  # one step an epoch
        ({"optimizer": "adamw_8bit", "method": "bitfit", "batch_size": 12}, "none"),
    ],
    ids=str,
)
def test_an_interruption_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Weights, changes: dict[str, Any], augment: str
) -> None:
    change_recipe(monkeypatch, augment=augment, lr=5e-3)
    config, few = replace(CONFIG, **changes), replace(TWO, train_size=12, val_size=12)
    steps = 12 // config.batch_size
    # Goes on within the first epoch, and within the second: one step earlier, each time.
    check_interrupted(config, few, tmp_path, weights, sorted({2, min(steps + 2, 2 * steps)}), 1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("batch_size", [4, 20])
@pytest.mark.parametrize(
    "moments", [lambda steps: [steps + 1], lambda steps: [2 * steps, 2 * steps + 1, 3 * steps]]
)
def test_an_interruption_costs_the_epoch_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    weights: Weights,
    batch_size: int,
    moments: Callable[[int], list[int]],
) -> None:
    change_recipe(monkeypatch, augment="crop_flip", lr=5e-3)
    config = replace(CONFIG, batch_size=batch_size)
    check_interrupted(config, THREE, tmp_path, weights, moments(20 // batch_size), math.inf)


def check_interrupted(
    config: Config, fidelity: Fidelity, folder: Path, weights: Weights, moments: list[int], every: float
) -> None:
    """A training that is interrupted at these steps ends as one that is not."""
    options: dict[str, Any] = {"seed": 3, "every_epoch": True}
    whole, trained = tune(config, fidelity, **options), weights()
    options |= {"checkpoint": folder / "0001.ckpt", "checkpoint_every": every}
    for at in moments:
        interrupted(at, config, fidelity, **options)
    torch.manual_seed(12345)
    assert told(tune(config, fidelity, **options)) == told(whole)
    assert same(weights(), trained)


def test_training_goes_on_and_does_not_begin_again(tmp_path: Path) -> None:
    options = {"checkpoint": tmp_path / "0001.ckpt"}
    interrupted(12, CONFIG, THREE, **options)
    done: list[int] = []
    tune(CONFIG, THREE, progress=lambda step, total, loss: done.append(step), **options)
    assert done == [11, 12, 13, 14, 15]


def test_training_goes_on_within_an_epoch(tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoint": tmp_path / "0001.ckpt", "checkpoint_every": 1e-9}
    interrupted(9, CONFIG, THREE, **options)  # before the checkpoint of that step
    done: list[int] = []
    tune(CONFIG, THREE, progress=lambda step, total, loss: done.append(step), **options)
    assert done == list(range(9, 16))


def test_times_add_up(tmp_path: Path) -> None:
    options = {"checkpoint": tmp_path / "0001.ckpt"}
    interrupted(12, CONFIG, THREE, **options)
    before = torch.load(options["checkpoint"])["state"]["outcome"]["seconds"]
    assert tune(CONFIG, THREE, **options).seconds > before > 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    "other",
    [
        {"seed": 4},
        {"config": CONFIG.with_method("last(k=1)")},
        {"config": replace(CONFIG, lr=1e-3)},
        {"fidelity": replace(TWO, epochs=3)},
        {"fidelity": replace(TWO, train_size=24)},
        {"weights": "toy.safetensors"},
    ],
    ids=str,
)
def test_a_checkpoint_of_something_else_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: dict[str, Any]
) -> None:
    if other.get("weights"):
        from safetensors.torch import save_file

        other = {"weights": str(tmp_path / other["weights"])}
        save_file(build(CONFIG, seed=9).state_dict(), other["weights"])
    told_of = {"config": CONFIG, "fidelity": TWO, **other}
    fresh = tune(**told_of)
    interrupted(6, CONFIG, TWO, checkpoint=tmp_path / "0001.ckpt")
    assert told(tune(checkpoint=tmp_path / "0001.ckpt", **told_of)) == told(fresh)
    assert "0001.ckpt: this checkpoint is ignored, and training starts anew" in caplog.text


def test_a_torn_checkpoint_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "0001.ckpt"
    interrupted(6, CONFIG, THREE, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    assert told(tune(CONFIG, THREE, checkpoint=path)) == told(tune(CONFIG, THREE))
    assert "training starts anew" in caplog.text


def test_a_checkpoint_holds_what_trains_and_no_more(tmp_path: Path) -> None:
    interrupted(6, CONFIG.with_method("linear"), THREE, checkpoint=tmp_path / "0001.ckpt")
    assert (tmp_path / "0001.ckpt").stat().st_size < 30_000
    interrupted(6, CONFIG.with_method("full"), THREE, checkpoint=tmp_path / "0002.ckpt")
    assert (tmp_path / "0002.ckpt").stat().st_size > 500_000


@pytest.mark.thorough
@pytest.mark.parametrize("method", [BSR, f"{BSR}+mesa"])
def test_a_stopped_trial_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, weights: Weights, method: str
) -> None:
    config, path = CONFIG.with_method(method), tmp_path / "0001.ckpt"
    whole, trained = tune(config, THREE, rungs={1: -math.inf}), weights()
    stopped = tune(config, THREE, rungs={1: math.inf}, checkpoint=path)
    assert stopped.status == "stopped"
    assert stopped.reason.startswith("stopped after epoch 1 of 3: ")
    assert (stopped.history, stopped.history_epochs) == (whole.history[:1], [1])
    assert stopped.accuracy == stopped.history[0]
    assert (stopped.losses, stopped.images_trained) == (whole.losses[:1], 20)
    assert stopped.fidelity["epochs"] == 3
    assert Record.from_dict(json.loads(json.dumps(stopped.to_dict()))) == stopped
    again = tune(config, THREE, rungs={1: math.inf}, checkpoint=path)  # as after a kill before it was told
    assert told(again) == told(stopped)
    further = tune(config, THREE, checkpoint=path)
    assert told(further) == told(whole)
    assert further.history_epochs == [1, 3]
    assert same(weights(), trained)


def test_looking_at_a_rung_changes_nothing(record: Record) -> None:
    looked = tune(fidelity=THREE, seed=3, rungs={1: -math.inf, 2: 0.0})
    plain = tune(fidelity=THREE, seed=3)
    assert (looked.losses, looked.accuracy) == (plain.losses, plain.accuracy)
    assert (looked.history_epochs, plain.history_epochs) == ([1, 2, 3], [3])


def test_the_test_set_of_a_stopped_trial_is_not_looked_at() -> None:
    assert tune(fidelity=THREE, rungs={1: math.inf}, test=True).test_accuracy is None


# --- the learning rate ----------------------------------------------------------------------------------


def test_the_configurations_learning_rate_is_the_peak_of_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.with_method("full")
    change_recipe(monkeypatch, lr_batch=256)
    recipes_own = tune(config)
    assert recipes_own.losses != tune(replace(config, lr=2e-3)).losses
    change_recipe(monkeypatch, lr_batch=None, lr=2e-3)
    assert tune(config).losses == tune(replace(config, lr=2e-3)).losses


# --- divergence -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [False, True])
def test_divergence_is_a_result(monkeypatch: pytest.MonkeyPatch, test: bool) -> None:
    change_recipe(monkeypatch, lr=1e30, clip=None, warmup_steps=0)
    record = tune(CONFIG.with_method("full"), test=test)
    assert record.status == "diverged"
    assert "the loss was nan at step 2 of 5" in record.reason
    assert record.accuracy is None
    assert record.test_accuracy is None
    assert record.images_trained == 4
    assert record.measured is not None  # the first step was good
    assert "peak_bytes" not in record.measured
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_divergence_in_the_last_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    change_recipe(monkeypatch, lr=1e30, clip=None, warmup_steps=0, steps=1)
    assert tune(CONFIG.with_method("full")).status == "diverged"


# --- validation and test --------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [False, True])
def test_the_test_set_is_seen_only_when_asked(monkeypatch: pytest.MonkeyPatch, test: bool) -> None:
    seen: set[int] = set()
    read = ImageSplit.pixels

    def watched(self: ImageSplit, items: list[int]) -> Any:
        seen.add(len(self))
        return read(self, items)

    monkeypatch.setattr(ImageSplit, "pixels", watched)
    record = tune(test=test)
    assert (record.test_accuracy is not None) == test
    assert seen == ({20, 360} if test else {20})  # the test set of digits has 360 images


def test_validation_after_every_epoch_is_in_the_history() -> None:
    record = tune(fidelity=replace(PROXY, epochs=3), every_epoch=True)
    assert len(record.history) == len(record.losses) == 3
    assert record.history_epochs == [1, 2, 3]
    assert record.accuracy == record.history[-1]


def test_without_asking_there_is_one_validation() -> None:
    assert len(tune(fidelity=replace(PROXY, epochs=3)).history) == 1


def test_a_recipe_of_steps_trains_that_many(monkeypatch: pytest.MonkeyPatch) -> None:
    change_recipe(monkeypatch, steps=7)
    steps: list[int] = []
    record = fine_tune(
        CONFIG,
        fidelity=replace(PROXY, epochs=None),
        weights="random",
        progress=lambda done, total, loss: steps.append(total - done),
    )
    assert steps == [6, 5, 4, 3, 2, 1, 0]
    assert record.images_trained == 28
    assert record.fidelity["epochs"] == 2  # of 5 steps each


# --- what is refused ------------------------------------------------------------------------------------


def test_a_recipe_of_another_optimiser_is_refused() -> None:
    with pytest.raises(UserError, match="--optimizer: 'sgd' does not go with --recipe short"):
        tune(replace(CONFIG, optimizer="sgd"))


def test_a_recipe_takes_its_optimiser_in_8_bits() -> None:
    assert tune(replace(CONFIG, optimizer="adamw_8bit")).config["optimizer"] == "adamw_8bit"


# --- the authors' protocol and recipes ------------------------------------------------------------------

AUTHORS = Fidelity(image_size=32, epochs=3, protocol="authors")


@pytest.fixture(scope="module")
def by_authors(toy: str) -> Record:
    return tune(replace(CONFIG, batch_size=256), AUTHORS, seed=3)


def test_the_authors_protocol_trains_on_all_images_and_takes_the_best_on_test(by_authors: Record) -> None:
    assert by_authors.split.startswith("digits: train 1437 / test 360, ")
    assert by_authors.images_trained == 3 * 5 * 256  # full batches of 1437
    assert by_authors.history_epochs == [1, 2, 3]
    assert by_authors.accuracy == max(by_authors.history)
    assert by_authors.test_accuracy == by_authors.history[-1]
    assert by_authors.accuracy_is == "top-1 on test, the best of all evaluations (protocol authors)"
    assert by_authors.fidelity["protocol"] == by_authors.protocol.name == "authors"


def test_the_best_need_not_be_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.25, 0.75, 0.5])
    monkeypatch.setattr(loop, "scores", lambda *given: (next(accuracies),))
    record = tune(replace(CONFIG, batch_size=512), AUTHORS)
    assert (record.accuracy, record.test_accuracy, record.history) == (0.75, 0.5, [0.25, 0.75, 0.5])
    accuracies = iter([0.25, 0.75, 0.5])
    record = tune(fidelity=replace(PROXY, epochs=3), every_epoch=True)
    assert (record.accuracy, record.test_accuracy) == (0.5, None)


def test_the_authors_protocol_looks_as_often_as_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    change_recipe(monkeypatch, evaluate_every=8)  # 5 steps an epoch: the 8th ends in the second
    for every_epoch in (False, True):
        record = tune(replace(CONFIG, batch_size=256), AUTHORS, every_epoch=every_epoch)
        assert record.history_epochs == [2, 3]


def test_the_held_out_protocol_is_the_usual_one_and_is_named(record: Record) -> None:
    assert record.fidelity["protocol"] == "held-out"
    assert record.accuracy_is == "top-1 on validation, after the last epoch"
    old = record.to_dict()
    del old["fidelity"]["protocol"]
    assert Record.from_dict(old).protocol == record.protocol


def test_a_paper_recipe_trains_as_the_authors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    seen: list[Any] = []

    def watched(name: str, **options: Any) -> Any:
        asked.update(options)
        return data.load_splits(name, **options)

    def built(*given: Any, **options: Any) -> Any:
        model, used = create_model(*given, **options)
        seen.extend([model.head.weight.abs().max().item(), options["tag"]])
        return model, used

    monkeypatch.setattr(job_module, "load_splits", watched)
    monkeypatch.setattr(build_module, "create_model", built)
    config = Config(model="toy", image_size=48, batch_size=8, optimizer="sgd_momentum", method=BSR)
    record = tune(config, replace(PROXY, recipe="paper-vit-b", epochs=2))
    assert (asked["interpolation"], asked["squash"], asked["crop_scale"]) == ("bilinear", True, (0.05, 1.0))
    assert seen == [0.0, "orig_in21k"]
    assert record.images_trained == 40  # 20 images an epoch: 8, 8 and 4


# --- several tasks --------------------------------------------------------------------------------------

OF_TASKS = replace(PROXY, train_size=40, val_size=28, epochs=2)


@pytest.mark.parametrize("batches", ["mixed", "by_task"])
def test_tasks_are_trained_together_and_judged_apart(batches: str, toy: str) -> None:
    config = replace(CONFIG, method="last(k=1)").with_classes((10, 4))
    data = f"tasks(digits, turned(digits), batches={batches})"
    record = fine_tune(config, data, OF_TASKS, "random", test=True, every_epoch=True)
    assert record.status == "finished"
    assert list(record.accuracy_by_task) == list(record.test_accuracy_by_task) == ["digits", "turned(digits)"]
    assert record.accuracy == pytest.approx(mean(record.accuracy_by_task.values()))
    assert record.test_accuracy == pytest.approx(mean(record.test_accuracy_by_task.values()))
    assert record.measured is not None
    for kind in ("saved", "peak"):
        assert record.measured[f"{kind}_bytes"] == record.measured[f"predicted_{kind}_bytes"]
    assert record.by_task.startswith("digits ")


def test_what_is_smoothed_within_tasks_costs_what_was_predicted(
    monkeypatch: pytest.MonkeyPatch, toy: str
) -> None:
    change_recipe(monkeypatch, label_smoothing=0.1)
    record = fine_tune(CONFIG.with_classes((10, 4)), "tasks(digits, turned(digits))", OF_TASKS, "random")
    assert record.measured is not None
    assert record.measured["saved_bytes"] == record.measured["predicted_saved_bytes"]


def test_frozen_blocks_run_once_for_tasks_too(tmp_path: Path, toy: str) -> None:
    """What is kept of them changes nothing."""
    config = replace(CONFIG, method="last(k=1)").with_classes((10, 4))
    data = "tasks(digits, turned(digits))"
    fidelity = replace(OF_TASKS, epochs=3)
    plain = fine_tune(config, data, fidelity, "random")
    kept = fine_tune(config, data, fidelity, "random", cache=Cache(tmp_path))
    assert kept.provenance["cached_blocks"] > 0
    assert (kept.accuracy_by_task, kept.losses) == (plain.accuracy_by_task, plain.losses)


def test_one_task_says_nothing_of_tasks(toy: str) -> None:
    record = tune()
    assert record.accuracy_by_task == record.test_accuracy_by_task == {}
    assert record.by_task == ""
