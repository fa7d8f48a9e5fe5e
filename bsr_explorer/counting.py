"""FLOPs of one operation of torch, 2 a multiply-add, by torch's own formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import flop_counter
from torch.utils.flop_counter import flop_registry, shape_wrapper

_MULTIPLYING = ("mm", "matmul", "conv", "attention", "einsum", "baddbmm", "gru", "lstm", "rnn", "dot")
"""Words in the names of operations that multiply matrices: each of them must have a formula."""


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(flop_counter.sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(flop_counter.sdpa_backward_flop_count(grad, query, key, value))


_aten = torch.ops.aten
_OURS: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}

LACKING = {op: formula for op, formula in _OURS.items() if op not in flop_registry}
"""Formulas that torch's table lacks before torch 2.15: of fused attention on the CPU, which it counted as nothing."""


def is_uncounted(packet: Any) -> bool:
    """Whether an operation multiplies matrices, by its name, and has no formula."""
    name = packet.__name__
    return (
        packet not in flop_registry and packet not in LACKING and any(word in name for word in _MULTIPLYING)
    )


def flops_of(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """FLOPs of an operation that was computed.

    Args:
        func: as torch dispatches it.

    Raises:
        LookupError: it multiplies matrices, and nobody knows how many of their numbers.
    """
    packet = func._overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    if packet in LACKING:
        return int(shape_wrapper(LACKING[packet])(*args, **kwargs, out_val=result))
    if is_uncounted(packet):
        raise LookupError(f"nobody counts the FLOPs of {packet}")
    return 0
