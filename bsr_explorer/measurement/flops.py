"""FLOPs as they are computed: torch's counter, guarded, and fvcore's as a second opinion."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bsr_explorer.units import FLOPS_PER_MAC

_MULTIPLYING = ("mm", "matmul", "conv", "attention", "einsum", "baddbmm", "gru", "lstm", "dot")
"""Words in the names of operations that multiply matrices: each of them must have a formula."""


def counter() -> FlopCounterMode:
    """torch's FLOP counter, 2 FLOPs a multiply-add.

    Before torch 2.15 it has no formula for fused attention on the CPU and counts it as nothing; the
    formula is added here where it is missing.
    """
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


class Uncounted(TorchDispatchMode):
    """Notes the operations that multiply matrices and have no FLOP formula."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self._formulas = counter.flop_registry
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        name = packet.__name__
        if packet not in self._formulas and any(word in name for word in _MULTIPLYING):
            self.names.add(str(packet))
        return func(*args, **(kwargs or {}))


def second_opinion(model: nn.Module, images: torch.Tensor) -> tuple[int, dict[str, int]]:
    """fvcore's count of the forward pass, and what it did not see.

    Returns:
        FLOPs (fvcore's multiply-adds, doubled), and how often each operation without a formula ran.
    """
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():  # fvcore traces with what torch is about to leave behind
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, images)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(analysis.total()) * FLOPS_PER_MAC, dict(analysis.unsupported_ops())
