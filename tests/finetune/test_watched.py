"""A training step that measures itself: as predicted, and without changing anything."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.finetune import run as run_module
from bsr_explorer.finetune import watched as watched_module
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.prediction import predict
from bsr_explorer.store.records import Record
from bsr_explorer.train.step import Step
from tests.finetune.tuning import BSR, CONFIG, PROXY, change_recipe, tune

pytestmark = pytest.mark.usefixtures("toy")


@pytest.mark.parametrize("method", ["full", "linear", "bitfit", "last(k=2)", BSR])
def test_saved_bytes_are_measured_as_predicted_at_the_size_trained(method: str) -> None:
    config = CONFIG.with_method(method)
    measured = tune(config).measured
    trained = predict(PROXY.at(config))
    assert measured is not None
    assert (measured["image_size"], measured["batch_size"]) == (32, 4)
    assert measured["saved_bytes"] == measured["predicted_saved_bytes"] == trained.saved_bytes


OPTIMIZERS: list[dict[str, Any]] = [
    {"optimizer": "adamw_8bit"},
    {"optimizer": "adamw_8bit", "precision": "bf16", "micro_batches": 2},
    {"implementation": "foreach"},
    {"implementation": "fused"},
    {"set_to_none": False},
]


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "amp_bf16"},
        {"precision": "amp_fp16"},
        {"precision": "bf16"},
        {"micro_batches": 2},
        {"micro_batches": 2, "precision": "amp_fp16", "method": "full"},
        {"attention": "math"},
        {"method": f"{BSR}+checkpoint"},
        {"method": f"{BSR}+offload"},
        {"method": "full"},
        {"method": "linear"},
        *OPTIMIZERS,
    ],
    ids=str,
)
def test_a_run_is_measured_as_predicted_however_it_runs(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    check_measured(
        monkeypatch, replace(CONFIG, batch_size=10, **changes), replace(PROXY, image_size=48, epochs=2)
    )


@pytest.mark.parametrize("changes", OPTIMIZERS, ids=str)
def test_a_run_is_measured_as_predicted_where_the_optimiser_takes_most(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    check_measured(monkeypatch, replace(CONFIG, **changes), PROXY)


def check_measured(monkeypatch: pytest.MonkeyPatch, config: Config, fidelity: Fidelity) -> None:
    """Saved bytes are as predicted, and the peak."""
    change_recipe(monkeypatch, layer_decay=1.0, head_lr_scale=1.0)  # the two groups that are predicted
    record, trained = tune(config, fidelity), predict(fidelity.at(config))
    measured = record.measured
    assert record.status == "finished"
    assert measured is not None
    assert measured["saved_bytes"] == measured["predicted_saved_bytes"] == trained.saved_bytes
    assert measured["predicted_peak_bytes"] == trained.peak_bytes
    assert measured["peak_bytes"] == pytest.approx(trained.peak_bytes, rel=1e-3)
    assert "fault" not in measured


def test_the_peak_is_that_of_a_step_that_updates_after_another_that_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gradient scaler begins by skipping steps, and Adam's state is there from the first update on."""
    skipped: list[bool] = []
    step = Step.__call__

    def watched(self: Step, images: Any, labels: Any) -> float:
        value = step(self, images, labels)
        skipped.append(self.skipped)
        return value

    monkeypatch.setattr(Step, "__call__", watched)
    config = replace(CONFIG, precision="amp_fp16", method="full")
    measured = tune(config).measured
    assert skipped[:2] == [True, False]
    assert measured is not None
    assert measured["peak_bytes"] == pytest.approx(predict(PROXY.at(config)).peak_bytes, rel=1e-3)


def test_a_peak_above_its_prediction_is_a_fault_of_the_cost_model(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = tune().measured
    assert measured is not None
    assert "fault" not in measured
    monkeypatch.setattr(watched_module, "TOLERANCE", -0.1)
    fault = (tune().measured or {})["fault"]
    assert re.fullmatch(r"the peak was -?0\.\d% above its prediction: the cost model is wrong here", fault)


@pytest.mark.parametrize("method", [BSR, f"{BSR}+checkpoint+offload", "full+mesa", "last(k=1)+backrazor"])
def test_measuring_changes_nothing_that_is_trained(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    watched = tune(CONFIG.with_method(method))
    monkeypatch.setattr(run_module, "WatchedStep", Unwatched)
    plain = tune(CONFIG.with_method(method))
    assert (plain.losses, plain.accuracy) == (watched.losses, watched.accuracy)


class Unwatched(Step):
    """A step that measures nothing."""

    peak_bytes = 0

    def fullest(self, actual: Config) -> None:
        """Nothing."""


def test_memory_is_predicted_at_the_size_of_the_configuration(record: Record) -> None:
    assert record.predicted == predict(CONFIG).summary()
    assert record.measured is not None
    assert record.predicted["saved_bytes"] > record.measured["saved_bytes"]


def test_saved_bytes_agree_with_fewer_images_than_a_batch() -> None:
    measured = tune(replace(CONFIG, batch_size=32)).measured  # 20 training images
    assert measured is not None
    assert measured["batch_size"] == 20
    assert measured["saved_bytes"] == measured["predicted_saved_bytes"]
    assert "peak_bytes" not in measured  # which is that of a whole batch, and of a second step


@pytest.mark.parametrize("micro_batches", [8, 32])
def test_fewer_images_than_a_batch_are_trained_on_in_micro_batches(micro_batches: int) -> None:
    record = tune(replace(CONFIG, batch_size=64, micro_batches=micro_batches))
    assert (record.status, record.images_trained) == ("finished", 20)
    assert record.measured is not None
    assert record.measured["saved_bytes"] == record.measured["predicted_saved_bytes"]


@pytest.mark.parametrize(
    ("method", "images", "batch", "steps"),
    [
        (BSR, 22, 4, 6),
        (BSR, 13, 12, 2),
        ("full", 20, 4, 5),
        ("full", 14, 12, 2),
        ("bsr(blocks=(2,), keep={1: 0.5})+mesa", 22, 4, 6),
        ("bsr(blocks=(2,), keep={1: 0.5})+mesa", 13, 12, 2),
        ("backrazor", 14, 12, 2),
    ],
)
def test_the_last_images_of_an_epoch_are_trained_on_and_the_peak_is_that_of_full_batches(
    monkeypatch: pytest.MonkeyPatch, method: str, images: int, batch: int, steps: int
) -> None:
    change_recipe(monkeypatch, partial_batch=True)
    config = replace(CONFIG, batch_size=batch, method=method)
    told: list[int] = []
    record = fine_tune(
        config,
        "digits",
        replace(PROXY, train_size=images, epochs=2),
        "random",
        progress=lambda done, total, loss: told.append(total),
    )
    assert set(told) == {2 * steps}
    assert record.images_trained == 2 * images
    assert record.measured is not None
    assert record.measured["batch_size"] == batch
    assert record.measured["peak_bytes"] == record.measured["predicted_peak_bytes"]
    assert record.measured["saved_bytes"] == record.measured["predicted_saved_bytes"]
