"""Learned factors of a tensor's last channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd import Function

from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.methods.ia3 import SCALE, check_thirds
from bsr_explorer.naming import blocks_of


class ScaleChannels(Function):
    """x (…, C), whose last channels are multiplied by gamma (n,), n ≤ C. Keeps x, and gamma. The result has the number
    format of x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        """Copy, and multiply."""
        ctx.save_for_backward(x, gamma)
        return _scaled(x, gamma)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x and gamma."""
        (gradient,) = gradients
        x, gamma = ctx.saved_tensors
        count, dims = len(gamma), tuple(range(x.dim() - 1))
        of_gamma = (gradient[..., -count:] * x[..., -count:]).sum(dims).to(gamma.dtype)
        of_x = _scaled(gradient, gamma) if ctx.needs_input_grad[0] else None
        return of_x, of_gamma


def _scaled(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    factors = gamma.to(x.dtype)
    if len(factors) == x.shape[-1]:
        return x * factors
    out = x.clone(memory_format=torch.contiguous_format)
    out[..., -len(factors) :].mul_(factors)
    return out


class ChannelScale(nn.Module):
    """Factors, 1 at first, of the last channels of a tensor.

    Args:
        count: how many.
        like: a tensor of the device and number format that they have.
    """

    def __init__(self, count: int, like: torch.Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(like.new_ones(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, C) → (…, C)."""
        if not torch.is_grad_enabled():
            return _scaled(x, self.gamma)
        out: torch.Tensor = ScaleChannels.apply(x, self.gamma)
        return out


def scale_channels_of(model: nn.Module) -> None:
    """Let keys and values, and what the second MLP layer reads, be multiplied by factors, in place."""
    for block in blocks_of(model):
        qkv, fc2 = (block.get_submodule(LAYERS[name]) for name in ("qkv", "fc2"))
        (out, read), (_, width) = (layer.get_parameter("weight").shape for layer in (qkv, fc2))
        check_thirds(out, read)
        for layer, count in ((qkv, 2 * out // 3), (fc2, width)):
            layer.add_module(SCALE, ChannelScale(count, layer.get_parameter("weight")))
        qkv.register_forward_hook(_scale_output)
        fc2.register_forward_pre_hook(_scale_input)


def _scale_output(layer: nn.Module, inputs: Any, out: torch.Tensor) -> Any:
    return layer.get_submodule(SCALE)(out)


def _scale_input(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    return (layer.get_submodule(SCALE)(inputs[0]),)
