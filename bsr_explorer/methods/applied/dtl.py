"""A side sum of low rank beside the blocks of a timm vision transformer."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from bsr_explorer.methods.applied.convolution import convolve
from bsr_explorer.methods.dtl import FUSION, KERNEL, SUM
from bsr_explorer.naming import blocks_of

BETA = 100.0
"""Of swish, as in the authors' scripts: nearly ReLU."""


def _sigmoid(x: Tensor) -> Tensor:
    return (x * BETA).sigmoid_()


class _Swish(Function):
    """x·σ(βx). Keeps x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Any shape."""
        ctx.save_for_backward(x)
        return _sigmoid(x).mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """g·(s + βx·s·(1 − s)) with s = σ(βx). In 16 bits βx may overflow; s·(1 − s) is zero there, and comes first."""
        (x,) = ctx.saved_tensors
        share = _sigmoid(x)
        return (1 - share).mul_(share).mul_(x).mul_(BETA).add_(share).mul_(gradients[0])


def swish(x: Tensor) -> Tensor:
    """x·σ(βx), of any shape."""
    if not torch.is_grad_enabled():
        return _sigmoid(x).mul_(x)
    made: Tensor = _Swish.apply(x)
    return made


class SideSum(nn.Module):
    """What stands beside one block.

    Args:
        adds: whether the sum is added to what leaves the block.
        side: rows and columns of patches.
        like: a tensor of the device and number format that its parameters have.
    """

    def __init__(self, width: int, r: int, adds: bool, side: int, like: Tensor) -> None:
        super().__init__()
        how: dict[str, Any] = {"bias": False, "device": like.device, "dtype": like.dtype}
        self.A, self.B = nn.Linear(width, r, **how), nn.Linear(r, width, **how)
        nn.init.kaiming_uniform_(self.A.weight, a=sqrt(5))
        nn.init.zeros_(self.B.weight)
        self.adds, self.side = adds, side
        self.shared: list[SideSum] = []  # (in a list, it is no module of this one)

    def fuse(self, others: Iterable[SideSum]) -> None:
        """Let a convolution follow swish here and in others, with a weight that stands here."""
        weight = nn.Parameter(self.A.weight.new_empty(self.A.in_features, 1, KERNEL, KERNEL))
        nn.init.kaiming_uniform_(weight, a=sqrt(5))
        self.register_parameter(FUSION, weight)
        for other in others:
            other.shared = [self]

    def forward(self, x: Tensor, leaving: Tensor, below: Tensor | None) -> tuple[Tensor, Tensor]:
        """What enters the block, what leaves it, and the sum below it, all (B, N, D) → the sum, and what leaves."""
        # (Without a class token what goes through the blocks lies channel by channel.)
        total = self.B(self.A(x.contiguous())) if below is None else below + self.B(self.A(x.contiguous()))
        if not self.adds:
            return total, leaving
        return total, leaving + (
            convolve(swish(total), self._weight, self.side) if self.shared else swish(total)
        )

    @property
    def _weight(self) -> Tensor:
        return self.shared[0].get_parameter(FUSION)


class _Summing:
    """A hook that carries the sum from block to block."""

    def __init__(self, first: nn.Module, last: nn.Module) -> None:
        self._below: list[Tensor] = []
        self._first, self._last = first, last

    def beside(self, block: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """Forward hook of a block."""
        side = cast(SideSum, block.get_submodule(SUM))
        if side is self._first:
            self._below.clear()  # of a pass that was broken off
        total, leaving = side(inputs[0], out, self._below.pop() if self._below else None)
        if side is not self._last:
            self._below.append(total)
        return cast(Tensor, leaving)


def add_side_sum(model: nn.Module, r: int, first: int, plus: bool = False) -> None:
    """Let a side sum of rank r a block run beside the blocks of a timm vision transformer, in place.

    Args:
        first: the block (0-based) from which on it is added to what leaves a block.
        plus: whether a convolution follows swish.
    """
    sides, vit = list[SideSum](), cast(Any, model)
    grid = int(vit.patch_embed.grid_size[0])
    for number, block in enumerate(blocks_of(model)):
        sides.append(SideSum(vit.embed_dim, r, number >= first, grid, next(block.parameters())))
        block.add_module(SUM, sides[-1])
    if plus:
        sides[first].fuse(sides[first:])
    summing = _Summing(sides[0], sides[-1])
    for block in blocks_of(model):
        block.register_forward_hook(summing.beside)
