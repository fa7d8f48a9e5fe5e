"""Patches pooled two by two, and laid back, against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bsr_explorer.methods.applied.patches import pool, spread
from bsr_explorer.operations.patches import halved


def pooled_by_hand(x: Tensor, side: int) -> Tensor:
    """Window by window."""
    grid = x[:, x.shape[1] - side * side :].unflatten(1, (side, side))
    windows = [
        grid[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(1, 2))
        for i in range(halved(side))
        for j in range(halved(side))
    ]
    return torch.stack(windows, dim=1)


def spread_by_hand(few: Tensor, side: int, prefix: int) -> Tensor:
    """Patch by patch."""
    few_side = halved(side)
    patches = [few[:, few_side * (i // 2) + j // 2] for i in range(side) for j in range(side)]
    return torch.stack([few.mean(dim=1)] * prefix + patches, dim=1)


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("across", [False, True])
def test_values_and_gradients_are_those_of_plain_torch(side: int, prefix: int, across: bool) -> None:
    torch.manual_seed(0)
    tokens, few = prefix + side * side, halved(side) ** 2
    x = torch.randn(2, 3, tokens).transpose(1, 2) if across else torch.randn(2, tokens, 3)
    cases: list[tuple[Any, Any, Tensor, int]] = [
        (lambda t: pool(t, side), lambda t: pooled_by_hand(t, side), x, few),
        (
            lambda t: spread(t, side, prefix),
            lambda t: spread_by_hand(t, side, prefix),
            torch.randn(2, few, 3),
            tokens,
        ),
    ]
    for ours, theirs, read, made in cases:
        one, other, wanted = (
            read.clone().requires_grad_(),
            read.clone().requires_grad_(),
            torch.randn(2, made, 3),
        )
        saved = list[Tensor]()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):  # noqa: B023
            found = ours(one)
        assert not saved
        expected = theirs(other)
        torch.testing.assert_close(found, expected)
        (found * wanted).sum().backward()
        (expected * wanted).sum().backward()
        torch.testing.assert_close(one.grad, other.grad)
        with torch.no_grad():
            torch.testing.assert_close(ours(read), expected)
