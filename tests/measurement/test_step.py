"""One measured step of a layer that can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils import flop_counter

from bsr_explorer.ledger import Ledger
from bsr_explorer.measurement.step import Measurement, measure_step
from bsr_explorer.train.step import Step

WEIGHT, BIAS = 5 * 12 * 4, 5 * 4


def _measure(momentum: float = 0.0, frozen: bool = False) -> tuple[Measurement, nn.Module]:
    """2 images of 3·2·2 pixels, one Linear layer to 5 classes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    model[1].weight.requires_grad_(not frozen)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    return measure_step(Step(model, optimizer), torch.randn(2, 3, 2, 2), torch.tensor([0, 4])), model


@pytest.fixture(scope="module")
def step() -> Ledger:
    """The ledger of the layer, with momentum."""
    return _measure(momentum=0.9)[0].ledger


def test_parameters_gradients_state_and_batch(step: Ledger) -> None:
    assert step.parameter_bytes == step.gradient_bytes == step.optimizer_bytes == WEIGHT + BIAS
    assert step.input_bytes == 2 * 12 * 4 + 2 * 8


def test_the_flattened_images_are_the_images_and_are_not_saved_again(step: Ledger) -> None:
    assert step.saved_bytes == 2 * 5 * 4 + 4  # log-probabilities and a weight, of the loss


def test_flops_forward_and_backward(step: Ledger) -> None:
    assert step.forward_flops == 2 * 2 * 12 * 5
    assert step.flops_of("backward") == 2 * 2 * 12 * 5  # the weight's gradient; the images need none


def test_the_peak_is_of_live_tensors(step: Ledger) -> None:
    assert step.peak_is == "live tensors"
    standing = 2 * (WEIGHT + BIAS) + step.input_bytes
    fullest = standing + WEIGHT + BIAS + 2 * 5 * 4  # all gradients, those of the class scores among them
    assert fullest <= step.peak_bytes <= fullest + 4 * 4  # and a few single numbers


def test_a_frozen_parameter_has_no_gradient_and_no_state() -> None:
    step = _measure(momentum=0.9, frozen=True)[0].ledger
    assert step.parameter_bytes == WEIGHT + BIAS
    assert step.gradient_bytes == step.optimizer_bytes == BIAS
    assert step.flops_of("backward") == 0


def test_without_momentum_there_is_no_state() -> None:
    assert _measure()[0].ledger.optimizer_bytes == 0


def test_the_steps_are_real() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    before = model[1].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measure_step(Step(model, optimizer), torch.randn(2, 3, 2, 2), torch.tensor([0, 4]))
    assert not torch.equal(model[1].weight, before)


def test_a_second_measurement_finds_the_same_peak() -> None:
    """The peak is of a steady step: the optimizer's state exists already in the first measurement."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(2, 3, 2, 2), torch.tensor([0, 4])
    peaks = set()
    for _ in range(3):
        peaks.add(measure_step(Step(model, optimizer), images, labels).ledger.peak_bytes)
        optimizer.zero_grad(set_to_none=True)
    assert len(peaks) == 1


def test_what_nobody_counts_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _measure()[0].uncounted == ()
    monkeypatch.delitem(flop_counter.flop_registry, torch.ops.aten.addmm)
    assert _measure()[0].uncounted == ("aten.addmm",)
