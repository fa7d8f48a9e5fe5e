"""FLOPs of one operation of torch, 2 a multiply-add, by torch's own formulas."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils import flop_counter
from torch.utils.flop_counter import flop_registry, shape_wrapper

from bsr_explorer.units import FLOPS_PER_MAC

_MULTIPLYING = ("mm", "matmul", "conv", "attention", "einsum", "baddbmm", "gru", "lstm", "rnn", "dot")
"""Words in the names of operations that multiply matrices: each of them must have a formula."""


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(flop_counter.sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(flop_counter.sdpa_backward_flop_count(grad, query, key, value))


def _convolution_backward(grad: Any, x: Any, weight: Any, *args: Any, **_: Any) -> int:
    """A product of every output (of a transposed one, of every input) with its group's weights, for each of both
    gradients."""
    _, _, _, _, transposed, _, _, wanted = args
    batch, _, *points = x if transposed else grad
    return int(FLOPS_PER_MAC * batch * prod(points) * prod(weight) * (wanted[0] + wanted[1]))


_aten = torch.ops.aten
_FUSED: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}

OURS: dict[Any, Any] = {
    **{op: formula for op, formula in _FUSED.items() if op not in flop_registry},
    _aten.convolution_backward: _convolution_backward,
}
"""Formulas in place of torch's. Before torch 2.15 it has none of fused attention on the CPU, and counts it as nothing.
The gradient of a grouped convolution's weight it counts as if there were no groups, of a depthwise one as many times
too much as there are channels; here it is what is computed. Its formula of a transposed one fails."""


class NoFormula(LookupError):
    """An operation multiplies matrices, and nobody knows how many of their numbers."""


def is_uncounted(packet: Any) -> bool:
    """Whether an operation multiplies matrices, by its name, and has no formula."""
    name = packet.__name__
    return packet not in flop_registry and packet not in OURS and any(word in name for word in _MULTIPLYING)


def flops_of(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """FLOPs of an operation that was computed.

    Args:
        func: as torch dispatches it.

    Raises:
        NoFormula: it multiplies matrices, and nobody knows how many of their numbers.
    """
    packet = func._overloadpacket
    if packet in OURS:
        return int(shape_wrapper(OURS[packet])(*args, **kwargs, out_val=result))
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    if is_uncounted(packet):
        raise NoFormula(f"nobody counts the FLOPs of {packet}")
    return 0
