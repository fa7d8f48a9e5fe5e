"""Learned tokens before the blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.methods.applied.vpt import add_prompt, add_prompts_of_blocks
from bsr_explorer.models.base import Selection
from bsr_explorer.models.vit.drop import drop_tokens_in

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


# --- of each block --------------------------------------------------------------------------------------------


def _deep(depth: int = 3, dropping: bool = False) -> Any:
    torch.manual_seed(0)
    model: Any = VisionTransformer(**{**SMALL, "depth": depth, "reg_tokens": 2})
    add_prompts_of_blocks(model, 3, add_prompt(model, 3))
    if dropping:
        drop_tokens_in(model, 1, Selection(0.5, fuse=True, faithful=True))
    return model


@pytest.mark.parametrize("dropping", [False, True])
def test_each_block_has_its_own(dropping: bool) -> None:
    """As the authors' code has it: what the block below made of prompts is thrown away."""
    model = _deep(dropping=dropping)
    entered: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda block, inputs: entered.append(inputs[0]))
    model(torch.randn(2, 3, 16, 16))
    x = entered[0]
    for number, block in enumerate(model.blocks):
        own = model.norm_pre.prompt if number == 0 else block.prompt
        assert torch.equal(entered[number][:, 3:6], own.expand(2, -1, -1))
        if number:
            assert torch.equal(entered[number][:, :3], x[:, :3])
            assert torch.equal(entered[number][:, 6:], x[:, 6:])
        x = type(block).forward(block, entered[number])


def test_gradients_are_those_of_plain_operations() -> None:
    model, generator = _deep(), torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 16, 16, generator=generator)
    model(images).square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    for number, block in enumerate(model.blocks):
        if number:
            x = torch.cat([x[:, :3], block.prompt.expand(2, -1, -1), x[:, 6:]], dim=1)
        x = type(block).forward(block, x)
    model.forward_head(model.norm(x)).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-5, atol=1e-6)
