"""A convolution of patch tokens that lie token by token, which keeps what its gradients need and nothing else."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function


def _as_images(x: Tensor, side: int) -> Tensor:
    """(B, side², C) → (B, C, side, side), the same numbers."""
    images: Tensor = x.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return images


def _as_tokens(images: Tensor) -> Tensor:
    """The way back."""
    return images.permute(0, 2, 3, 1).flatten(1, 2)


def _groups(weight: Tensor, channels: int) -> int:
    return channels // weight.shape[1]


def _convolved(x: Tensor, weight: Tensor, side: int) -> Tensor:
    """The last tokens of x (B, N, in), as many as the grid has; those before them stay."""
    prefix, padding = x.shape[1] - side * side, weight.shape[-1] // 2
    made = F.conv2d(
        _as_images(x[:, prefix:], side), weight, padding=padding, groups=_groups(weight, x.shape[-1])
    )
    return torch.cat((x[:, :prefix], _as_tokens(made)), dim=1) if prefix else _as_tokens(made)


class _Convolution(Function):
    """Patches of x (B, N, in), convolved with a weight (out, in / groups, k, k). Keeps x if the weight needs a
    gradient, and the weight if x does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, side: int) -> Tensor:
        """(B, N, in) → (B, N, out)."""
        of_x, of_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        ctx.side, ctx.sizes = side, (tuple(x.shape), tuple(weight.shape))
        return _convolved(x, weight, side)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients of x and of the weight."""
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        (batch, tokens, channels), shape = ctx.sizes
        prefix, padding = tokens - ctx.side * ctx.side, shape[-1] // 2
        # What the other gradient alone needs is asked for its shape only: some number that is there.
        read = gradient[0, 0, 0].expand(batch, tokens, channels) if x is None else x
        like = gradient[0, 0, 0].expand(shape) if weight is None else weight
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        geometry = [1, 1], [padding, padding], [1, 1], False, [0, 0]
        of_patches, of_weight, _ = torch.ops.aten.convolution_backward(
            _as_images(gradient[:, prefix:], ctx.side),
            _as_images(read[:, prefix:], ctx.side),
            like,
            None,
            *geometry,
            channels // shape[1],
            wanted,
        )
        if of_weight is not None:
            of_weight = of_weight.contiguous()
        if of_patches is None:
            return None, of_weight, None
        of_x = _as_tokens(of_patches)
        del of_patches
        if prefix:
            of_x = torch.cat((gradient[:, :prefix], of_x), dim=1)
        return of_x, of_weight, None


def convolve(x: Tensor, weight: Tensor, side: int) -> Tensor:
    """A convolution of stride 1 that keeps the grid's size, of the last tokens of x (B, N, in), (B, N, out).

    Args:
        weight: (out, in / groups, k, k) with an odd k.
        side: rows and columns of the grid. Tokens before it stay as they are (then out is in).
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        weight, x = weight.to(dtype), x.to(dtype)
    if not torch.is_grad_enabled():
        return _convolved(x, weight, side)
    with torch.autocast(device, enabled=False):
        made: Tensor = _Convolution.apply(x, weight, side)
    return made


class Convolution(nn.Module):
    """``convolve`` with a weight of its own, which begins as those of torch's convolutions.

    Args:
        k: rows and columns of its kernel, odd.
        side: of the grid.
        like: a tensor of the device and number format that its weight has.
    """

    def __init__(self, channels: int, out: int, k: int, groups: int, side: int, like: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(like.new_empty(out, channels // groups, k, k))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, in) → (B, N, out)."""
        return convolve(x, self.weight, self.side)
