"""Rep-Net beside a model, against the same written out in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bsr_explorer.methods import RepNet
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
from tests.methods.applied.test_lite import by_hand as lite_by_hand

OTHERS: tuple[dict[str, Any], ...] = (
    {},
    BARE,
    {"img_size": 24, "global_pool": "avg", "fc_norm": False, "reg_tokens": 2},
    {"init_values": 0.1, "pre_norm": True, "depth": 1},
)
every_other = pytest.mark.parametrize("options", OTHERS, ids=lambda options: "+".join(options) or "plain")


def by_hand(model: Any, images: Tensor) -> Tensor:
    """The formula, with operations of torch alone."""
    with torch.no_grad():
        x = entered(model, images)
        left = []
        for block in model.blocks:
            x = plainly(block, x)
            left.append(x)
        features = model.fc_norm(model.pool(model.norm(x)))
    y: Tensor | None = None
    for block, b in zip(model.blocks, left, strict=True):
        here = lite_by_hand(block.repnet, b, model.num_prefix_tokens, y)
        y = here if y is None else y + here
    assert y is not None
    logits: Tensor = model.head(features + y.mean(dim=1))
    return logits


@every_other
def test_outputs_and_gradients_are_those_of_plain_torch(options: dict[str, Any]) -> None:
    check_like(made(RepNet(2), **options), pictures(**options), by_hand)


@every_other
def test_at_first_it_is_the_linear_probe_bit_for_bit(options: dict[str, Any]) -> None:
    check_begins_as_linear(RepNet(2), **options)


def test_nothing_of_the_backbone_has_a_graph() -> None:
    model = made(RepNet(2))
    assert live_blocks(model, pictures()) == set()
    live = list[bool]()
    model.norm.register_forward_hook(lambda module, inputs, out: live.append(out.requires_grad))
    model(pictures()).sum().backward()
    assert live == [False]
    ours = {name for name, p in model.named_parameters() if p.grad is not None}
    assert ours and all(".repnet." in name or name.startswith("head.") for name in ours)
