"""Dense adapters, against the same written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.functional import linear, relu

from bsr_explorer.methods.applied.checkpoint import checkpoint_block
from bsr_explorer.methods.applied.sparse_tuning import DenseAdapter, Group, add_dense_adapters


def _filled(model: nn.Module) -> None:
    with torch.no_grad():
        for adapter in model.modules():
            if isinstance(adapter, DenseAdapter):
                for parameter in adapter.parameters():
                    parameter.normal_(std=0.3)


def _model(depth: int = 4) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=16, patch_size=8, embed_dim=12, depth=depth, num_heads=3, num_classes=3)


def _by_hand(adapter: Any, x: torch.Tensor) -> torch.Tensor:
    """As the authors write it, with one layer of what lies side by side."""
    h = relu(adapter.down(x))
    a = adapter.inner.down(h)
    mix = adapter.inner.mix
    both = torch.cat([a, mix.up(a)], dim=-1)
    weight = torch.cat([mix.of_down.weight, mix.of_up.weight], dim=1)
    made: torch.Tensor = adapter.up(h + linear(both, weight, mix.of_down.bias))
    return made


def test_an_adapter_is_what_its_formula_says_and_begins_at_zero() -> None:
    torch.manual_seed(0)
    adapter, x = DenseAdapter(6, 4, 5, torch.empty(0), Group()), torch.randn(2, 3, 6)
    assert not adapter(x).any()
    _filled(adapter)
    torch.testing.assert_close(adapter(x), _by_hand(adapter, x))
    across = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(adapter(across), adapter(x))


@pytest.mark.parametrize("again", [(), (0, 1), (1, 2, 3)])
def test_what_adapters_of_a_group_add_is_added_once_more_to_what_leaves_it(again: tuple[int, ...]) -> None:
    model, x = _model().double(), torch.randn(2, 5, 12, dtype=torch.float64)
    add_dense_adapters(model, 4, {1, 2, 3})  # groups (0, 1), (2), (3)
    _filled(model)
    for block in again:
        checkpoint_block(model, block)
    got = model.blocks(x)
    expected, made = x, []
    for place, module in enumerate(model.blocks):
        block: Any = module
        middle = expected + block.attn(block.norm1(expected))
        hidden = block.mlp.act(block.mlp.fc1(block.norm2(middle)))
        made.append(_by_hand(block.mlp.fc2.dense_adapter, middle))
        expected = middle + linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias) + made[-1]
        if place in (1, 2, 3):
            expected, made = expected + sum(made), []
    torch.testing.assert_close(got, expected)
    names = [name for name, p in model.named_parameters() if "dense_adapter" in name]
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad(got.square().sum(), [parameters[name] for name in names])
    theirs = torch.autograd.grad(expected.square().sum(), [parameters[name] for name in names])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_is_left_behind_for_the_next_step() -> None:
    model = _model()
    add_dense_adapters(model, 4, {1, 3})
    groups = {id(m._group): m._group for m in model.modules() if isinstance(m, DenseAdapter)}
    assert len(groups) == 2
    for batch in (2, 3):
        model(torch.randn(batch, 3, 16, 16)).sum().backward()
        assert all(g.now is None and g.made is None and not g.entered for g in groups.values())
