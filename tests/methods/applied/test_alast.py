"""A model whose blocks keep as many tokens as they are told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.methods.applied.alast import follow_class_token, keep_tokens, patches_of, width_of

pytestmark = pytest.mark.usefixtures("toy")


def followed() -> Any:
    model = build(Config("toy", 48, method="full"))
    follow_class_token(model)
    return model.train()


def test_a_block_keeps_as_many_patch_tokens_as_it_is_told_in_training_alone() -> None:
    model, counts = followed(), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: counts.append(output.shape[1]))
    images = torch.randn(2, 3, 48, 48)
    keep_tokens(model, {1: 5, 2: 1})
    model(images)
    assert counts == [patches_of(model) + 1, 6, 2, 2]
    counts.clear()
    model.eval()(images)
    assert counts == [patches_of(model) + 1] * 4
    counts.clear()
    keep_tokens(model, {})
    model.train()(images)
    assert counts == [patches_of(model) + 1] * 4


def test_those_stay_to_which_the_class_token_attends_most() -> None:
    model: Any = followed()
    keep_tokens(model, {0: 3})
    block, seen = model.blocks[0], []
    block.norm2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        q, k, _ = block.attn.qkv(block.norm1(x)).view(1, -1, 3, 2, 16).unbind(2)
        attention = torch.einsum("hd,nhd->hn", q[0, 0], k[0]).div(4).softmax(dim=1).mean(dim=0)[1:]
        middle = x + block.attn(block.norm1(x))
        model(images)
    best = attention.topk(3).indices + 1
    kept = {tuple(token.tolist()) for token in seen[0][0, 1:]}
    assert kept == {tuple(token.tolist()) for token in middle[0, best]}
    assert width_of(model) == 32
