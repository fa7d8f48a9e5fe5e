"""Patch tokens on a grid of half as many rows and columns, and back. Neither keeps anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from bsr_explorer.tape import halved


def _windows(patches: Tensor, side: int, few: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of patches (B, side², D) whose windows are alike, (B, a, i, b, j, D) of a by b windows of i by j; and what
    stands for each window in ``few`` (B, n, D), (B, a, 1, b, 1, D). At an odd edge windows have one row, or column."""
    pairs, grid = side // 2, patches.unflatten(1, (side, side))
    halves = few.unflatten(1, (halved(side), halved(side)))
    spans = [(0, pairs, 2), (pairs, side % 2, 1)]
    for row, rows, high in spans:
        for column, columns, wide in spans:
            if rows and columns:
                part = grid[:, 2 * row : 2 * row + rows * high, 2 * column : 2 * column + columns * wide]
                windows = part.unflatten(1, (rows, high)).unflatten(3, (columns, wide))
                yield windows, halves[:, row : row + rows, None, column : column + columns, None]


def _pooled(x: Tensor, side: int) -> Tensor:
    images = x[:, x.shape[1] - side * side :].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    made = F.avg_pool2d(images, 2, ceil_mode=bool(side % 2), count_include_pad=False)
    return made.permute(0, 2, 3, 1).flatten(1, 2)


class _Pool(Function):
    """See ``pool``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, side: int) -> Tensor:
        """(B, N, D) → (B, n, D)."""
        ctx.side, ctx.shape = side, x.shape
        return _pooled(x, side)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Each patch gets its share of its window's gradient."""
        of_x = gradients[0].new_empty(ctx.shape)
        prefix = ctx.shape[1] - ctx.side * ctx.side
        of_x[:, :prefix].zero_()
        for windows, gradient in _windows(of_x[:, prefix:], ctx.side, gradients[0]):
            windows.copy_(gradient.expand_as(windows)).div_(windows.shape[2] * windows.shape[4])
        return of_x, None


def pool(x: Tensor, side: int) -> Tensor:
    """Means of two by two patches, the last tokens of x (B, N, D), (B, n, D); at an odd edge, of those there are.

    Args:
        side: rows and columns of patches.
    """
    if not torch.is_grad_enabled():
        return _pooled(x, side)
    made: Tensor = _Pool.apply(x, side)
    return made


def _spread(few: Tensor, side: int, prefix: int) -> Tensor:
    grid = few.unflatten(1, (halved(side), halved(side)))
    grid = grid.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, :side, :side].flatten(1, 2)
    return torch.cat((few.mean(dim=1, keepdim=True).expand(-1, prefix, -1), grid), dim=1) if prefix else grid


class _Spread(Function):
    """See ``spread``."""

    @staticmethod
    def forward(ctx: Any, few: Tensor, side: int, prefix: int) -> Tensor:
        """(B, n, D) → (B, N, D)."""
        ctx.side, ctx.prefix, ctx.shape = side, prefix, few.shape
        out = few.new_empty(few.shape[0], prefix + side * side, few.shape[2])
        for windows, each in _windows(out[:, prefix:], side, few):
            windows.copy_(each.expand_as(windows))
        if prefix:
            out[:, :prefix] = few.mean(dim=1, keepdim=True)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Sums over windows, and a share of what arrived at the mean."""
        (gradient,) = gradients
        of_few = gradient.new_empty(ctx.shape)
        for windows, each in _windows(gradient[:, ctx.prefix :], ctx.side, of_few):
            torch.sum(windows, dim=(2, 4), keepdim=True, out=each)
        if ctx.prefix:
            of_few.add_(gradient[:, : ctx.prefix].sum(dim=1, keepdim=True), alpha=1 / ctx.shape[1])
        return of_few, None, None


def spread(few: Tensor, side: int, prefix: int) -> Tensor:
    """Each token of few (B, n, D) in the place of the two by two patches that it stands for, behind ``prefix`` times
    the mean of all, (B, N, D).

    Args:
        side: rows and columns of patches.
    """
    if not torch.is_grad_enabled():
        return _spread(few, side, prefix)
    made: Tensor = _Spread.apply(few, side, prefix)
    return made
