"""Operations that pack what they keep, and the plain ones beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.storages import Narrow, Packing, Quantized, Sparse, attention, functions
from bsr_explorer.storages.keeper import Keeper

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


def stored(x: Tensor, packing: Packing) -> Tensor:
    """What comes back of a tensor; the next draw of chance is as if it had not been packed."""
    kept = Keeper(packing).keep(x)
    return kept.restore(kept.tensors)
