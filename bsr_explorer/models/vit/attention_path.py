"""Which kernel the attention layers of a model run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def use_attention_path(model: nn.Module, path: str) -> None:
    """Let every attention layer run ``math`` (explicit softmax), ``fused`` (the kernel that torch picks), or
    a CUDA kernel by its name: ``flash``, ``efficient`` or ``cudnn``."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            layer = cast(Any, module)
            layer.fused_attn = path != "math"
            layer.kernel = path
            if path in _KERNELS:
                layer.forward = partial(_with_kernel, _KERNELS[path], layer.forward)


_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def _with_kernel(kernel: SDPBackend, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with sdpa_kernel(kernel):
        return forward(*args, **kwargs)
