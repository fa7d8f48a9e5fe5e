"""Every operation's gradients: with a lossless packing autograd's own, else those of a slow, obvious reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bsr_explorer.storages import Packing, Quantized, functions
from bsr_explorer.storages.keeper import Keeper, take_attached
from tests.storages.packed import (
    LOSSLESS,
    OPERATIONS,
    every_operation,
    every_packing,
    gradients,
    norm,
    norm_normalized,
    operands,
    stored,
)


@every_operation
def test_with_a_lossless_packing_it_is_autograd_to_the_bit(name: str) -> None:
    run, plain, names = OPERATIONS[name]
    t = operands(*names)
    output, expected = run(t, LOSSLESS), plain(t)
    assert torch.equal(output, expected)
    ours, theirs = gradients(output, t), gradients(expected, t)
    for leaf in names:
        assert torch.equal(ours[leaf], theirs[leaf]), leaf


@every_operation
@every_packing
def test_forward_is_exact_whatever_is_kept(name: str, packing: Packing) -> None:
    run, plain, names = OPERATIONS[name]
    t = operands(*names)
    assert torch.equal(run(t, packing), plain(t))


@every_packing
@pytest.mark.parametrize("name", ["linear", "gelu", "scale", "fused"])
def test_gradients_are_those_of_the_plain_operation_at_what_was_stored(name: str, packing: Packing) -> None:
    run, plain, names = OPERATIONS[name]
    t = operands(*names)
    torch.manual_seed(5)
    output = run(t, packing)
    torch.manual_seed(5)
    fed = {**t, names[0]: stored(t[names[0]], packing).requires_grad_()}
    ours, theirs = gradients(output, t), gradients(plain(fed), fed)
    for leaf in names:
        torch.testing.assert_close(ours[leaf], theirs[leaf], rtol=1e-5, atol=1e-6)


@every_packing
def test_a_norms_gradients_take_the_exact_mean_and_deviation(packing: Packing) -> None:
    t = operands("x", "gamma", "beta")
    torch.manual_seed(5)
    ours = gradients(norm(t, packing), t)
    torch.manual_seed(5)
    x = stored(t["x"], packing).double()
    exact, gamma = t["x"].detach().double(), t["gamma"].detach().double()
    deviation = (exact.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    normed = (x - exact.mean(-1, keepdim=True)) / deviation
    torch.manual_seed(9)
    g = torch.randn(2, 5, 6).double()
    inner = g * gamma
    of_x = (
        inner - inner.mean(-1, keepdim=True) - normed * (inner * normed).mean(-1, keepdim=True)
    ) / deviation
    for leaf, expected in (("x", of_x), ("gamma", (g * normed).sum((0, 1))), ("beta", g.sum((0, 1)))):
        torch.testing.assert_close(ours[leaf].double(), expected, rtol=1e-5, atol=1e-5)


@every_operation
def test_what_is_packed_is_what_autograd_saves(name: str) -> None:
    run, _, names = OPERATIONS[name]
    t = operands(*names)
    seen: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        seen.append(x)
        return x.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run(t, Quantized(8, 3))
    assert any(x.dtype == torch.uint8 for x in seen)
    whole = {t[names[0]].data_ptr()}
    assert not whole & {x.data_ptr() for x in seen}, "the tensor itself is not saved"


@every_operation
def test_two_forward_passes_before_a_backward_pass(name: str) -> None:
    """A later pass with other numbers changes nothing of what the first one kept."""
    run, _, names = OPERATIONS[name]
    t = operands(*names)
    torch.manual_seed(5)
    alone = gradients(run(t, Quantized(8, 3)), t)
    torch.manual_seed(5)
    first = run(t, Quantized(8, 3))
    run({key: 100 * value for key, value in t.items()}, Quantized(8, 3))
    for leaf, gradient in gradients(first, t).items():
        assert torch.equal(gradient, alone[leaf])


@pytest.mark.parametrize("name", ["linear", "norm", "scale"])
@pytest.mark.parametrize("trains", [0, 1])
def test_what_needs_no_gradient_gets_none(name: str, trains: int) -> None:
    run, plain, names = OPERATIONS[name]
    t = operands(*names)
    for place, leaf in enumerate(names):
        t[leaf].requires_grad_(place == trains)
    leaves = {names[trains]: t[names[trains]]}
    ours, theirs = gradients(run(t, LOSSLESS), leaves), gradients(plain(t), leaves)
    assert torch.equal(ours[names[trains]], theirs[names[trains]])


def test_outputs_are_computed_again_from_inputs() -> None:
    t = operands("x", "gamma", "beta")
    normed = functions.LayerNorm.apply(t["x"], t["gamma"], t["beta"], 1e-6, Keeper(LOSSLESS), True, True)
    again = take_attached(normed)
    assert again is not None
    torch.testing.assert_close(again.restore(again.tensors), normed.detach())
    activated = functions.Gelu.apply(t["x"], "none", Keeper(LOSSLESS).keep(t["x"]), True)
    again = take_attached(activated)
    assert again is not None
    assert torch.equal(again.restore(again.tensors), activated)


def test_a_norm_that_keeps_its_normalised_input_has_the_same_gradients() -> None:
    t = operands("x", "gamma", "beta")
    ours, theirs = gradients(norm_normalized(t, LOSSLESS), t), gradients(OPERATIONS["norm"][1](t), t)
    for leaf, gradient in theirs.items():
        torch.testing.assert_close(ours[leaf], gradient, rtol=1e-5, atol=1e-6)


def test_small_tokens_are_kept_as_well_as_large_ones() -> None:
    """Of a residual stream whose tokens differ in size, a channel's range is that of the largest token."""
    t = operands("x", "gamma", "beta")
    t["x"] = (t["x"].detach() * torch.tensor([1e-3, 1.0, 1.0, 1.0, 100.0]).view(5, 1)).requires_grad_()
    exact, packing = gradients(OPERATIONS["norm"][1](t), t)["gamma"], Quantized(8, 6, ema=0.0)
    errors = [
        float((gradients(run(t, packing), t)["gamma"] - exact).norm() / exact.norm())
        for run in (norm, norm_normalized)
    ]
    assert errors[1] < 0.02 < errors[0]
