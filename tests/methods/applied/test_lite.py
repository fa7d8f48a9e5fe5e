"""Lite residual modules, written out in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, layer_norm

from bsr_explorer.methods.applied.lite import LiteResidual, means


def by_hand(module: Any, x: Tensor, prefix: int, add: Tensor | None = None) -> Tensor:
    """The formula, of all tokens x (B, N, D), with a tensor that is added to the means, (B, n, D) → (B, n, D)."""
    batch, _, width = x.shape
    images = x[:, prefix:].transpose(1, 2).reshape(batch, width, module.side, module.side)
    u = avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)
    grid = u.shape[-2:]
    if add is not None:
        u = u + add.transpose(1, 2).unflatten(2, grid)
    weight = module.conv.weight
    h = conv2d(u, weight, padding=1, groups=width // weight.shape[1]).flatten(2).transpose(1, 2)
    h = layer_norm(h, h.shape[-1:], module.norm.weight, module.norm.bias, 1e-6).relu() @ module.up.weight.T
    return layer_norm(h, h.shape[-1:], module.last.weight, module.last.bias, 1e-6)


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_its_formula_and_begins_at_zero(side: int, groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1 + side * side, 8)
    module = LiteResidual(8, 2, groups, side, x)
    assert not module.made(means(x, side)).any()
    torch.nn.init.normal_(module.last.weight)
    torch.testing.assert_close(module.made(means(x, side)), by_hand(module, x, 1), rtol=1e-4, atol=1e-5)
