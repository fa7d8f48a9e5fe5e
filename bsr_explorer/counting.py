"""FLOPs of a call."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode


def counter() -> FlopCounterMode:
    """torch's FLOP counter, with a formula for fused attention on the CPU, which it lacked before torch 2.15."""
    aten = torch.ops.aten
    known = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    missing = {op: formula for op, formula in known.items() if op not in flop_counter.flop_registry}
    return FlopCounterMode(display=False, custom_mapping=missing)


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(flop_counter.sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(flop_counter.sdpa_backward_flop_count(grad, query, key, value))
