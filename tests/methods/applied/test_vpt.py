"""Learned tokens before the blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.methods.applied.vpt import add_prompt

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 12,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
}


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"pre_norm": True}, {"class_token": False}])
def test_tokens_stand_behind_the_prefix(options: dict[str, Any]) -> None:
    pool = {"global_pool": "avg"} if options.get("class_token") is False else {}
    torch.manual_seed(0)
    model = VisionTransformer(**{**SMALL, **options, **pool})
    entered: list[torch.Tensor] = []
    model.blocks.register_forward_pre_hook(lambda blocks, inputs: entered.append(inputs[0]))
    images, prefix = torch.randn(2, 3, 16, 16), model.num_prefix_tokens
    before = model(images)
    add_prompt(model, 3)
    after = model(images)
    assert not torch.allclose(before, after)
    assert torch.equal(torch.cat([entered[1][:, :prefix], entered[1][:, prefix + 3 :]], dim=1), entered[0])
    assert torch.equal(entered[1][1, prefix : prefix + 3], model.norm_pre.prompt[0])
    assert model.num_prefix_tokens == prefix + 3


def test_a_mean_over_patches_leaves_them_alone() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(**{**SMALL, "global_pool": "avg", "fc_norm": False})
    add_prompt(model, 3)
    tokens = torch.randn(2, 4 + 1 + 3, 12)
    pooled = model.pool(tokens)
    torch.testing.assert_close(pooled, tokens[:, 4:].mean(1))
