"""Steps of several configurations are timed in turn."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.step_times import Stepper, in_turn


def test_steps_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch, toy: str) -> None:
    steppers = [Stepper(Config(toy, 32, batch_size=2, method=method)) for method in ("full", "linear")]
    order: list[int] = []
    real = Stepper.seconds

    def noted(self: Stepper) -> float:
        order.append(steppers.index(self))
        return real(self)

    monkeypatch.setattr(Stepper, "seconds", noted)
    told: list[tuple[int, int]] = []
    taken = in_turn(steppers, 3, lambda done, total: told.append((done, total)))
    assert order == [0, 1] * 3
    assert [len(each) for each in taken] == [3, 3]
    assert all(second > 0 for each in taken for second in each)
    assert told == [(done, 6) for done in range(1, 7)]


def test_a_step_is_that_of_the_configuration(toy: str) -> None:
    stepper = Stepper(Config(toy, 48, batch_size=4, precision="bf16", method="last(k=1)", micro_batches=2))
    assert stepper.images.shape == (4, 3, 48, 48)
    assert stepper.images.dtype == torch.bfloat16
    assert stepper.step.micro_batches == 2
    before = {name: p.detach().clone() for name, p in stepper.step.model.named_parameters()}
    stepper.seconds()
    changed = {name for name, p in stepper.step.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all(name.startswith(("blocks.3.", "norm.", "head.")) for name in changed)
