"""Every operation's gradients: with a lossless packing autograd's own, else those of a slow, obvious reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.storages import Narrow, Packing, Quantized, Sparse, attention, functions
from bsr_explorer.storages.keeper import Keeper, take_attached

LOSSLESS = Narrow("fp32")
PACKINGS: list[Packing] = [
    Narrow("fp16"),
    Sparse(0.7),
    Sparse(0.5, quantize=8),
    Quantized(8, 3),
    Quantized(4, 6, ema=0.0),
]
every_packing = pytest.mark.parametrize("packing", PACKINGS, ids=str)
HEADS, SCALE = 3, 2**-0.5
"""Of 6 channels: queries of 2 numbers."""

Run = Callable[[dict[str, Tensor], Packing], Tensor]


def operands(*names: str) -> dict[str, Tensor]:
    """Leaves of an operation: x (2, 5, 6), qkv (2, 5, 18), weights."""
    torch.manual_seed(3)
    shapes = {"x": (2, 5, 6), "qkv": (2, 5, 18), "weight": (4, 6), "bias": (4,), "gamma": (6,), "beta": (6,)}
    return {name: torch.randn(shapes[name]).requires_grad_() for name in names}


def linear(t: dict[str, Tensor], packing: Packing) -> Tensor:
    return functions.Linear.apply(t["x"], t["weight"], t["bias"], Keeper(packing).keep(t["x"]))


def norm(t: dict[str, Tensor], packing: Packing) -> Tensor:
    return functions.LayerNorm.apply(t["x"], t["gamma"], t["beta"], 1e-6, Keeper(packing), False, False)


def norm_normalized(t: dict[str, Tensor], packing: Packing) -> Tensor:
    return functions.LayerNorm.apply(t["x"], t["gamma"], t["beta"], 1e-6, Keeper(packing), True, False)


def gelu(t: dict[str, Tensor], packing: Packing) -> Tensor:
    return functions.Gelu.apply(t["x"], "none", Keeper(packing).keep(t["x"]), False)


def scale(t: dict[str, Tensor], packing: Packing) -> Tensor:
    return functions.Scale.apply(t["x"], t["gamma"], Keeper(packing).keep(t["x"]))


def fused(t: dict[str, Tensor], packing: Packing) -> Tensor:
    return attention.FusedAttention.apply(t["qkv"], HEADS, "fused", Keeper(packing).keep(t["qkv"]))


def explicit(t: dict[str, Tensor], packing: Packing) -> Tensor:
    kept = Keeper(packing).keep(t["qkv"]), Keeper(_of_softmax(packing))
    return attention.ExplicitAttention.apply(t["qkv"], HEADS, SCALE, torch.float32, *kept)


def _of_softmax(packing: Packing) -> Packing:
    return Quantized(packing.bits, HEADS, 1) if isinstance(packing, Quantized) else packing


def _by_head(qkv: Tensor) -> tuple[Tensor, ...]:
    return qkv.view(2, 5, 3, HEADS, 2).permute(2, 0, 3, 1, 4).unbind(0)


def plain_fused(t: dict[str, Tensor]) -> Tensor:
    return F.scaled_dot_product_attention(*_by_head(t["qkv"])).transpose(1, 2).reshape(2, 5, 6)


def plain_explicit(t: dict[str, Tensor]) -> Tensor:
    q, k, v = _by_head(t["qkv"])
    attention = ((q * SCALE) @ k.transpose(-2, -1)).softmax(dim=-1)
    return (attention @ v).transpose(1, 2).reshape(2, 5, 6)


OPERATIONS: dict[str, tuple[Run, Callable[[dict[str, Tensor]], Tensor], tuple[str, ...]]] = {
    "linear": (linear, lambda t: F.linear(t["x"], t["weight"], t["bias"]), ("x", "weight", "bias")),
    "norm": (norm, lambda t: F.layer_norm(t["x"], (6,), t["gamma"], t["beta"], 1e-6), ("x", "gamma", "beta")),
    "gelu": (gelu, lambda t: F.gelu(t["x"]), ("x",)),
    "scale": (scale, lambda t: t["x"] * t["gamma"], ("x", "gamma")),
    "fused": (fused, plain_fused, ("qkv",)),
    "explicit": (explicit, plain_explicit, ("qkv",)),
}
every_operation = pytest.mark.parametrize("name", OPERATIONS)


def gradients(output: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(9)
    found = torch.autograd.grad(output, list(leaves.values()), torch.randn(output.shape))
    return dict(zip(leaves, found, strict=True))


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


def stored(x: Tensor, packing: Packing) -> Tensor:
    """What comes back of a tensor; the next draw of chance is as if it had not been packed."""
    kept = Keeper(packing).keep(x)
    return kept.restore(kept.tensors)


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


@every_packing
def test_explicit_attention_takes_the_stored_softmax(packing: Packing) -> None:
    t = operands("qkv")
    torch.manual_seed(5)
    ours = gradients(explicit(t, packing), t)["qkv"]
    torch.manual_seed(5)
    qkv = stored(t["qkv"], packing)
    q, k, v = _by_head(t["qkv"].detach())
    softmax = stored(((q * SCALE) @ k.transpose(-2, -1)).softmax(-1), _of_softmax(packing))
    q, k, v = _by_head(qkv)
    torch.manual_seed(9)
    g = torch.randn(2, 5, 6).view(2, 5, HEADS, 2).transpose(1, 2)
    of_softmax = g @ v.mT
    of_scores = softmax * (of_softmax - (of_softmax * softmax).sum(-1, keepdim=True))
    parts = [of_scores @ k * SCALE, of_scores.mT @ q * SCALE, softmax.mT @ g]
    expected = torch.stack([part.transpose(1, 2) for part in parts], dim=2).reshape(2, 5, 18)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kernel", "dtype"), [("flash", torch.float16), ("efficient", torch.float32)])
def test_fused_kernels_of_a_gpu(kernel: str, dtype: torch.dtype) -> None:
    qkv = torch.randn(2, 5, 3 * 3 * 16, device="cuda", dtype=dtype, requires_grad=True)
    kept = Keeper(Narrow("fp32")).cuda().keep(qkv)
    ours = attention.FusedAttention.apply(qkv, HEADS, kernel, kept)
    q, k, v = qkv.view(2, 5, 3, HEADS, 16).permute(2, 0, 3, 1, 4).unbind(0)
    plain: Any = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, -1)
    g = torch.randn_like(plain)
    torch.testing.assert_close(torch.autograd.grad(ours, qkv, g), torch.autograd.grad(plain, qkv, g))


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
