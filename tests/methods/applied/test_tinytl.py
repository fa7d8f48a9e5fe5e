"""TinyTL's modules beside a model's blocks, against the same written out in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from bsr_explorer.methods import BitFit, TinyTL
from tests.methods.applied.small import BARE, SMALL, check_like, entered, live_blocks, made, pictures, plainly
from tests.methods.applied.test_lite import by_hand as lite_by_hand
from tests.methods.applied.test_patches import spread_by_hand

OTHERS: tuple[dict[str, Any], ...] = (
    {},
    BARE,
    {"img_size": 24, "global_pool": "avg", "fc_norm": False, "reg_tokens": 2},
    {"init_values": 0.1, "pre_norm": True, "depth": 1},
)
every_other = pytest.mark.parametrize("options", OTHERS, ids=lambda options: "+".join(options) or "plain")


def by_hand(model: Any, images: Tensor) -> Tensor:
    """The formula, with operations of torch alone."""
    x, prefix = entered(model, images), model.num_prefix_tokens
    for block in model.blocks:
        lite = block.lite_residual
        x = plainly(block, x) + spread_by_hand(lite_by_hand(lite, x, prefix), lite.side, prefix)
    logits: Tensor = model.forward_head(model.norm(x))
    return logits


@every_other
def test_outputs_and_gradients_are_those_of_plain_torch(options: dict[str, Any]) -> None:
    check_like(made(TinyTL(2), moved=0.1, **options), pictures(**options), by_hand, rtol=1e-3)


@every_other
def test_at_first_it_computes_what_the_model_does_bit_for_bit(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain, images = BitFit().apply(VisionTransformer(**{**SMALL, **options})), pictures(**options)
    assert torch.equal(made(TinyTL(2), moved=0.0, **options)(images), plain(images))


def test_a_gradient_passes_through_every_block() -> None:
    assert live_blocks(made(TinyTL(2)), pictures()) == {0, 1, 2, 3}
