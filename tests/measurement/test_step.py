"""One measured step of a layer that can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils import flop_counter

from bsr_explorer.errors import UserError
from bsr_explorer.ledger import Ledger
from bsr_explorer.measurement.step import Measurement, measure_step
from bsr_explorer.train.step import Step

WEIGHT, BIAS = 5 * 12 * 4, 5 * 4


def _measure(momentum: float = 0.0, frozen: bool = False) -> tuple[Measurement, nn.Module]:
    """2 images of 3·2·2 pixels, one Linear layer to 5 classes."""
    layer = nn.Linear(12, 5)
    layer.weight.requires_grad_(not frozen)
    model = nn.Sequential(nn.Flatten(), layer)
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
    gradients = WEIGHT + BIAS + 2 * 5 * 4 + 4  # those of the class scores and of the loss among them
    assert step.peak_bytes == standing + gradients + 4  # and the loss


def test_a_frozen_parameter_has_no_gradient_and_no_state() -> None:
    step = _measure(momentum=0.9, frozen=True)[0].ledger
    assert step.parameter_bytes == WEIGHT + BIAS
    assert step.gradient_bytes == step.optimizer_bytes == BIAS
    assert step.flops_of("backward") == 0


def test_without_momentum_there_is_no_state() -> None:
    assert _measure()[0].ledger.optimizer_bytes == 0


def test_the_steps_are_real() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 5)
    before = layer.weight.detach().clone()
    model = nn.Sequential(nn.Flatten(), layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measure_step(Step(model, optimizer), torch.randn(2, 3, 2, 2), torch.tensor([0, 4]))
    assert not torch.equal(layer.weight, before)


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


def test_parts_add_up_and_gradients_may_stay() -> None:
    """Two micro-batches: the FLOPs and the gradients of the whole batch, and what one of them saves."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 4, 1, 2])
    step = measure_step(Step(model, optimizer, micro_batches=2, set_to_none=False), images, labels).ledger
    assert step.forward_flops == 2 * 4 * 12 * 5
    assert step.gradient_bytes == WEIGHT + BIAS
    assert step.saved_bytes == 2 * 5 * 4 + 4
    standing = 2 * (WEIGHT + BIAS) + step.input_bytes
    numbers = 3 * 4  # the loss, a micro-batch's share of it, and the gradient of that
    assert step.peak_bytes == standing + WEIGHT + BIAS + 2 * 5 * 4 + numbers


class _Skipping(Step):
    """Skips every second update, the first one too."""

    calls = 0

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        self.calls += 1
        self.skipped = self.calls % 2 == 1
        if not self.skipped:
            return super().__call__(images, labels)
        self.backward(self.loss(images, labels))
        self.optimizer.zero_grad()
        return 0.0


def test_the_peak_is_of_a_step_that_updates() -> None:
    peaks = set()
    for kind in (Step, _Skipping):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 50))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False)
        step = kind(model, optimizer)
        measured = measure_step(step, torch.randn(2, 3, 2, 2), torch.tensor([0, 4])).ledger
        assert not step.skipped
        peaks.add(measured.peak_bytes)
    assert len(peaks) == 1


def test_a_gradient_scaler_is_state_and_the_steps_that_it_skips_are_repeated() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 5)
    before = layer.weight.detach().clone()
    model = nn.Sequential(nn.Flatten(), layer)
    step = Step(model, torch.optim.SGD(model.parameters(), lr=0.1), precision="amp_fp16")
    measured = measure_step(step, 1e3 * torch.randn(2, 3, 2, 2), torch.tensor([0, 4])).ledger
    assert measured.optimizer_bytes == 2 * 4
    assert not torch.equal(layer.weight, before)
    assert not step.skipped


def test_a_step_that_ends_before_its_backward_pass_is_not_measured() -> None:
    layer = nn.Linear(12, 5)
    nn.init.constant_(layer.weight, float("nan"))
    model = nn.Sequential(nn.Flatten(), layer)
    step = Step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UserError, match=r"--measure: the loss of a step is nan.*choose another --precision"):
        measure_step(step, torch.randn(2, 3, 2, 2), torch.tensor([0, 4]))
