"""A low-rank update beside a linear layer, and lengths of the sum's rows."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.autograd import Function

from bsr_explorer.methods.applied.lora import add_update
from bsr_explorer.methods.dora import MAGNITUDE
from bsr_explorer.methods.lora import DOWN, UP


class _Magnitude(Function):
    """z (…, out) → (z − b) ⊙ m/l + b, of magnitudes m (out,), lengths l (out,) and a bias b. Keeps z, l, m, b. The
    result has the number format of z."""

    @staticmethod
    def forward(
        ctx: Any, z: torch.Tensor, magnitude: torch.Tensor, lengths: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Scale."""
        ctx.save_for_backward(z, magnitude, lengths, bias)
        return _scaled(z, magnitude, lengths, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of z and m."""
        (gradient,) = gradients
        z, magnitude, lengths, bias = ctx.saved_tensors
        dims = tuple(range(z.dim() - 1))
        total = (gradient * z).sum(dims)
        if bias is not None:
            total.addcmul_(gradient.sum(dims), bias.to(total.dtype), value=-1)
        of_magnitude = total / lengths
        del total
        of_z = gradient * (magnitude / lengths).to(z.dtype) if ctx.needs_input_grad[0] else None
        return of_z, of_magnitude, None, None


def _scaled(
    z: torch.Tensor, magnitude: torch.Tensor, lengths: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    factors = (magnitude / lengths).to(z.dtype)
    out = z * factors
    if bias is not None:
        out.add_(torch.rsub(factors, 1).mul_(bias))
    return out


def add_update_with_lengths(layer: nn.Linear, r: int, scale: float) -> None:
    """Add an update to a linear layer (see ``add_update``), whose sum's rows get lengths that train, in place."""
    add_update(layer, r, scale)
    lengths = torch.linalg.vector_norm(layer.weight.detach(), dim=1)
    layer.register_parameter(MAGNITUDE, nn.Parameter(lengths))

    def hook(layer: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        magnitude, bias = getattr(layer, MAGNITUDE), layer.bias
        with torch.autocast(out.device.type, enabled=False):
            lengths = _lengths(layer, scale)
            if not torch.is_grad_enabled():
                return _scaled(out, magnitude, lengths, bias)
            return cast(torch.Tensor, _Magnitude.apply(out, magnitude, lengths, bias))

    layer.register_forward_hook(hook)


@torch.no_grad()
def _lengths(layer: Any, scale: float) -> torch.Tensor:
    """Of the rows of the summed weight, (out,)."""
    down, up = getattr(layer, DOWN).weight, getattr(layer, UP).weight
    total = torch.addmm(layer.weight, up, down, alpha=scale)
    return cast(torch.Tensor, torch.linalg.vector_norm(total, dim=1))
