"""The ladder beside a model, against the same written out in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from bsr_explorer.methods import Lst
from bsr_explorer.methods.applied.lst import mix, narrowed
from tests.methods.applied.small import (
    BARE,
    check_begins_as_linear,
    check_like,
    entered,
    live_blocks,
    made,
    pictures,
    plainly,
)

SIXTEEN = {"embed_dim": 16, "num_heads": 2, "depth": 3}
OTHERS: tuple[dict[str, Any], ...] = (
    {},
    BARE,
    {"global_pool": "avg", "fc_norm": False, "reg_tokens": 2},
    {"init_values": 0.1, "pre_norm": True},
)


every_other = pytest.mark.parametrize("options", OTHERS, ids=lambda options: "+".join(options) or "plain")


def by_hand(model: Any, images: Tensor) -> Tensor:
    """The formula, with operations of torch alone."""
    with torch.no_grad():
        left = [entered(model, images)]
        for block in model.blocks:
            left.append(plainly(block, left[-1]))
        features = model.fc_norm(model.pool(model.norm(left[-1])))
    state = model.blocks[0].ladder.first(left[0])
    for block, x in zip(model.blocks, left[1:], strict=True):
        rung = block.ladder
        share = torch.sigmoid(rung.gate / 0.1)
        state = rung.block(share * state + (1 - share) * rung.down(x))
    top = model.head_drop.ladder
    made: Tensor = model.head(features + top.up(top.norm(model.pool(state))))
    return made


@every_other
def test_outputs_and_gradients_are_those_of_plain_torch(options: dict[str, Any]) -> None:
    check_like(made(Lst(2), **SIXTEEN, **options), pictures(), by_hand)


@every_other
def test_at_first_it_is_the_linear_probe_bit_for_bit(options: dict[str, Any]) -> None:
    check_begins_as_linear(Lst(2), **SIXTEEN, **options)


def test_nothing_of_the_backbone_has_a_graph() -> None:
    model = made(Lst(2), **SIXTEEN)
    assert live_blocks(model, pictures()) == set()
    live = list[bool]()
    model.norm.register_forward_hook(lambda module, inputs, out: live.append(out.requires_grad))
    model(pictures()).sum().backward()
    assert live == [False]
    ours = {name for name, p in model.named_parameters() if p.grad is not None}
    assert ours and all(".ladder." in name or name.startswith("head.") for name in ours)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_mean_has_the_gradients_of_its_formula(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 5, 3, dtype=dtype), torch.randn(2, 5, 3, dtype=dtype)]
    gate = torch.tensor([0.03], dtype=dtype if dtype == torch.float64 else torch.float32)
    ours = [x.clone().requires_grad_() for x in (*inputs, gate)]
    theirs = [x.clone().requires_grad_() for x in (*inputs, gate)]
    x, y, g = theirs
    share = torch.sigmoid(g / 0.1).to(dtype)
    expected = share * x + (1 - share) * y
    weights = torch.randn(2, 5, 3).to(dtype)
    found = mix(*ours)
    assert found.dtype == dtype
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        tolerance = 1e-6 if dtype == torch.float64 else 5e-2
        torch.testing.assert_close(one.grad, other.grad, rtol=tolerance, atol=tolerance)


def test_a_small_block_is_a_block_of_timm() -> None:
    block = Block(24, 3, init_values=0.1, qkv_bias=True)
    small: Any = narrowed(block, 2)
    theirs = Block(12, 3, qkv_bias=True)
    assert {n: p.shape for n, p in small.named_parameters()} == {
        n: p.shape for n, p in theirs.named_parameters()
    }
    theirs.load_state_dict(small.state_dict())
    x = torch.randn(2, 4, 12)
    torch.testing.assert_close(small(x), theirs(x))
    assert isinstance(small.ls1, nn.Identity)
    assert next(block.parameters()).shape == (24,)
