"""Bottlenecks within blocks, against the same written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn.functional import gelu

from bsr_explorer.methods.applied.adapter import Bottleneck, add_adapters


class Model(nn.Module):
    """A single block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(Block(12, 3))


def test_a_bottleneck_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    made, x = Bottleneck(6, 3, 5, 0.5, torch.empty(0)), torch.randn(2, 4, 6)
    assert not made(x).any()
    with torch.no_grad():
        made.up.weight.normal_()
        made.up.bias.normal_()
    by_hand = 0.5 * (gelu(x @ made.down.weight.T + made.down.bias) @ made.up.weight.T + made.up.bias)
    torch.testing.assert_close(made(x), by_hand)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_block_with_adapters_is_what_its_formula_says(parallel: bool) -> None:
    model, x = Model(), torch.randn(2, 5, 12)
    block: Any = model.blocks[0]
    before = block(x)
    add_adapters(model, 4, parallel, 0.3)
    assert torch.equal(block(x), before)
    found = {name: m for name, m in block.named_modules() if isinstance(m, Bottleneck)}
    assert found.keys() == ({"mlp.fc2.adapter"} if parallel else {"mlp.fc2.adapter", "attn.proj.adapter"})
    with torch.no_grad():
        for adapter in found.values():
            adapter.up.weight.normal_()
        out = block(x)
        hooks = [module._forward_hooks.copy() for module in (block.attn.proj, block.mlp.fc2)]
        for module in (block.attn.proj, block.mlp.fc2):
            module._forward_hooks.clear()
        attended = block.attn(block.norm1(x))
        middle = x + attended + (0 if parallel else found["attn.proj.adapter"](attended))
        normed = block.norm2(middle)
        made = block.mlp(normed)
        by_hand = middle + made + found["mlp.fc2.adapter"](normed if parallel else made)
    assert any(hooks)
    torch.testing.assert_close(out, by_hand)
