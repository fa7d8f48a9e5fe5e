"""Blocks of a timm vision transformer whose operations keep their tensors packed.

A layer keeps its parameters under their names, and gets a keeper for each tensor that it packs. It runs as before
where autograd records nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from bsr_explorer.devices import device_or_cpu
from bsr_explorer.storages import functions
from bsr_explorer.storages.attention import KERNELS, ExplicitAttention, FusedAttention
from bsr_explorer.storages.base import Packing
from bsr_explorer.storages.itself import Itself
from bsr_explorer.storages.keeper import Keeper, Kept, attach, take_attached
from bsr_explorer.storages.packing import DTYPES
from bsr_explorer.storages.rebuilt import Rebuilt

Stores = Callable[[str, str, int, int], Packing | Rebuilt | None]
"""How a block's tensor is packed, by the layer that keeps it and its place (``methods.storing.PLACES``), the heads of
the block's attention and the tensor's channels; None: as it is."""


def store_in_block(module: nn.Module, stores: Stores) -> None:
    """Let the operations of a block pack what they keep, in place."""
    block = cast(Any, module)
    attention, mlp, heads = block.attn, block.mlp, block.attn.num_heads

    def keeper(path: str, place: str, channels: int) -> Keeper | None:
        return _keeper(block.get_submodule(path), place, stores(path, place, heads, channels))

    def linear(path: str, place: str) -> None:
        layer: Any = block.get_submodule(path)
        if isinstance(layer, nn.Linear):  # one of another kind keeps what it keeps
            store_in_linear(layer, place, stores(path, place, heads, layer.in_features))

    def rebuilt(path: str, place: str, channels: int) -> bool:
        return isinstance(stores(path, place, heads, channels), Rebuilt)

    for path, reader in (("norm1", "attn.qkv"), ("norm2", "mlp.fc1")):
        norm = block.get_submodule(path)
        (width,) = norm.normalized_shape
        normalized = stores(path, "normalized", heads, width) is not None
        if (kept := keeper(path, "normalized" if normalized else "residual", width)) is not None:
            again = rebuilt(reader, "normed", width)
            norm.forward = partial(_norm, norm, norm.forward, kept, normalized, again)
    linear("attn.qkv", "normed")
    softmax = None if attention.fused_attn else keeper("attn", "softmax", 1)
    if (kept := keeper("attn", "qkv", attention.qkv.out_features)) is not None:
        attention.forward = partial(_attention, attention, kept, softmax)
    linear("attn.proj", "attended")
    linear("mlp.fc1", "normed")
    if hasattr(mlp, "gate_last"):  # a gated MLP multiplies halves, and these are kept as they are
        linear("mlp.fc2", "gated")
    else:
        width = mlp.fc1.out_features
        if (kept := keeper("mlp.act", "hidden", width)) is not None:
            again = rebuilt("mlp.fc2", "activated", width)
            mlp.act.forward = partial(_gelu, mlp.act, mlp.act.forward, kept, again)
        linear("mlp.fc2", "activated")
    for path in ("ls1", "ls2"):
        scale = block.get_submodule(path)
        if hasattr(scale, "gamma") and (kept := keeper(path, "branch", len(scale.gamma))) is not None:
            scale.forward = partial(_scale, scale, scale.forward, kept)


def _keeper(layer: nn.Module, place: str, packing: Packing | Rebuilt | None) -> Keeper | None:
    """As a part of the layer; none where the tensor is rebuilt or left as it is."""
    if not isinstance(packing, Packing):
        return None
    keeper = Keeper(packing)
    layer.add_module(f"kept_{place}", keeper)
    return keeper


def store_in_linear(layer: nn.Linear, place: str, packing: Packing | Rebuilt | None) -> None:
    """Let a linear layer pack what it reads, in place; ``Rebuilt`` and None: it takes what a norm attaches to it, if
    anything."""
    cast(Any, layer).forward = partial(_linear, layer, layer.forward, _keeper(layer, place, packing))


def share_normalized(norm: nn.LayerNorm, readers: Sequence[nn.Linear]) -> None:
    """Let a norm keep its input as it is normalised, and linear layers that read it compute again from that what they
    read, in place."""
    kept = Keeper(Itself())
    norm.add_module("kept_normalized", kept)
    cast(Any, norm).forward = partial(_norm, norm, norm.forward, kept, True, True)
    for reader in readers:
        cast(Any, reader).forward = partial(_linear, reader, reader.forward, None)


# --- layers ---------------------------------------------------------------------------------------------

Forward = Callable[[torch.Tensor], torch.Tensor]


def _recorded(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd records an operation on these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _autocast_to(x: torch.Tensor) -> torch.dtype | None:
    """The number format of products under autocast, if it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _without_autocast(function: Any, x: torch.Tensor, *args: Any) -> torch.Tensor:
    """Apply an autograd function to operands that are cast already."""
    with torch.autocast(x.device.type, enabled=False):
        result: torch.Tensor = function.apply(x, *args)
    return result


def _linear(layer: nn.Linear, plain: Forward, keeper: Keeper | None, x: torch.Tensor) -> torch.Tensor:
    kept = take_attached(x)
    if kept is not None and not layer.weight.requires_grad:
        attach(x, kept)  # for an update beside this layer, which reads the same
    if not _recorded(x, layer.weight, layer.bias) or (kept is None and keeper is None):
        return plain(x)
    weight, bias, dtype = layer.weight, cast("torch.Tensor | None", layer.bias), _autocast_to(x)
    if dtype is not None:
        bias = None if bias is None else bias.to(dtype)
        weight, x = weight.to(dtype), x.to(dtype)
    if not weight.requires_grad:
        kept = None
    elif kept is None:
        assert keeper is not None
        kept = keeper.keep(x)
    elif dtype is not None:
        kept = _cast(kept, dtype)
    return _without_autocast(functions.Linear, x, weight, bias, kept)


def _cast(kept: Kept, dtype: torch.dtype) -> Kept:
    restore = kept.restore
    return Kept(kept.tensors, lambda tensors: restore(tensors).to(dtype))


def _norm(
    layer: nn.LayerNorm,
    plain: Forward,
    keeper: Keeper,
    normalized: bool,
    output: bool,
    x: torch.Tensor,
) -> torch.Tensor:
    if not _recorded(x, layer.weight, layer.bias):
        return plain(x)
    if _autocast_to(x) is not None and not device_or_cpu(x.device.type).norms_take_both:
        x = x.float()
    how = layer.eps, keeper, normalized, output
    return _without_autocast(functions.LayerNorm, x, layer.weight, layer.bias, *how)


def _gelu(layer: nn.Module, plain: Forward, keeper: Keeper, output: bool, x: torch.Tensor) -> torch.Tensor:
    if not _recorded(x):
        return plain(x)
    tanh = getattr(layer, "approximate", "") == "tanh" or type(layer).__name__ == "GELUTanh"
    approximate = "tanh" if tanh else "none"
    return _without_autocast(functions.Gelu, x, approximate, keeper.keep(x), output)


def _scale(layer: Any, plain: Forward, keeper: Keeper, x: torch.Tensor) -> torch.Tensor:
    if not _recorded(x, layer.gamma):
        return plain(x)
    kept = keeper.keep(x) if layer.gamma.requires_grad else None
    return _without_autocast(functions.Scale, x, layer.gamma, kept)


def _attention(
    layer: Any, inputs: Keeper, softmax: Keeper | None, x: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    """timm's attention, of which geometries allow neither norms of queries and keys, nor gates, nor masks."""
    qkv = layer.qkv(x)
    if not _recorded(qkv):
        attended = _plain_attention(layer, qkv)
    else:
        kept = inputs.keep(qkv)
        attach(qkv, kept)  # for a token drop, which reads the keys
        if layer.fused_attn:
            how: tuple[Any, ...] = (layer.num_heads, _kernel(layer, qkv), kept)
            attended = _without_autocast(FusedAttention, qkv, *how)
        else:
            how = (layer.num_heads, layer.scale, _softmax_dtype(qkv), kept, softmax)
            attended = _without_autocast(ExplicitAttention, qkv, *how)
    return layer.proj_drop(layer.proj(attended))  # type: ignore[no-any-return]


def _plain_attention(layer: Any, qkv: torch.Tensor) -> torch.Tensor:
    """The same without a graph."""
    batch, tokens, _ = qkv.shape
    q, k, v = qkv.view(batch, tokens, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if layer.fused_attn:
        attended = F.scaled_dot_product_attention(q, k, v)
    else:
        attended = ((q * layer.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return attended.transpose(1, 2).flatten(2)


def _softmax_dtype(qkv: torch.Tensor) -> torch.dtype:
    """Autocast's may be wider than that of the scores."""
    wide = device_or_cpu(qkv.device.type).softmax if _autocast_to(qkv) is not None else None
    return DTYPES[wide] if wide else qkv.dtype


def _kernel(layer: Any, qkv: torch.Tensor) -> str:
    """The kernel that was chosen, or the one that the device picks for the number format."""
    chosen = getattr(layer, "kernel", "")
    dtype = "fp32" if qkv.dtype == torch.float32 else "bf16"
    return device_or_cpu(qkv.device.type).path(chosen if chosen in KERNELS else "fused", dtype, packed=True)
