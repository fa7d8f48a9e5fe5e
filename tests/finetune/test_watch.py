"""Callbacks for the progress of a fine-tune."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bsr_explorer.finetune import run as run_module
from bsr_explorer.finetune.job import Job
from bsr_explorer.train.recipes import IMAGENET
from tests.finetune.tuning import CONFIG, THREE

pytestmark = pytest.mark.usefixtures("toy")


def test_a_watch_is_told_of_the_peak_each_epoch_and_the_model() -> None:
    told_of: list[Any] = []

    class Noting:
        def peak(self, measured: int, predicted: int) -> None:
            told_of.append((measured, predicted))

        def epoch(self, number: int, epochs: int, loss: float, accuracy: float) -> None:
            told_of.append((number, epochs, loss, accuracy))

        def trained(self, model: torch.nn.Module, splits: Any) -> None:
            told_of.append((len(model.blocks), splits.classes, splits.mean_std))  # type: ignore[arg-type]

    record = run_module.run(
        CONFIG, Job(fidelity=THREE, weights="random", seed=3, every_epoch=True), watch=Noting()
    )
    assert record.measured is not None
    assert told_of == [
        (record.measured["peak_bytes"], record.measured["predicted_peak_bytes"]),
        *((n + 1, 3, record.losses[n], record.history[n]) for n in range(3)),
        (4, tuple("0123456789"), IMAGENET),
    ]
