"""Scores that need no class token, against what they say that they are."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Attention

from bsr_explorer.models.vit.scores import (
    drawn_scores,
    fixed_scores,
    fresh_seed,
    mean_attention,
    patch_softmax,
    token_norms,
)


@pytest.mark.parametrize(("batch", "heads", "prefix"), [(1, 3, 1), (3, 3, 0), (2, 1, 2)])
def test_mean_attention_is_the_mean_of_the_layers_softmax(batch: int, heads: int, prefix: int) -> None:
    torch.manual_seed(0)
    layer = Attention(12, num_heads=heads)
    layer.fused_attn = False
    seen: dict[str, torch.Tensor] = {}
    layer.qkv.register_forward_hook(lambda module, args, out: seen.update(qkv=out))
    layer.attn_drop.register_forward_hook(lambda module, args, out: seen.update(softmax=out))
    layer(torch.randn(batch, 7, 12))
    scores = mean_attention(seen["qkv"], heads, prefix)
    torch.testing.assert_close(scores, seen["softmax"].mean(dim=(1, 2))[:, prefix:])
    assert not scores.requires_grad
    torch.testing.assert_close(mean_attention(seen["qkv"], heads, 0).sum(1), torch.ones(batch))


@pytest.mark.parametrize("tokens", [5, 17, 50, 197])
def test_an_image_is_the_same_wherever_in_the_batch_it_stands(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    qkv = torch.randn(8, tokens, 3 * 192, generator=generator)
    order = torch.randperm(8, generator=generator)
    assert torch.equal(mean_attention(qkv[order], 3, 1), mean_attention(qkv, 3, 1)[order])
    assert torch.equal(token_norms(qkv[order], 1), token_norms(qkv, 1)[order])


def test_norms_are_those_of_the_patches() -> None:
    x = torch.tensor([[[9.0, 9], [3, 4], [0, 2]]], requires_grad=True)
    norms = token_norms(x, 1)
    assert norms.tolist() == [[5.0, 2.0]]
    assert not norms.requires_grad


def test_a_seed_draws_the_same_for_each_image_by_itself() -> None:
    x = torch.zeros(4, 11, 3, dtype=torch.bfloat16)
    scores = drawn_scores(x, 2, 5)
    assert scores.shape == (4, 9)
    assert scores.dtype is torch.float32
    assert torch.equal(drawn_scores(x, 2, 5), scores)
    assert not torch.equal(drawn_scores(x, 2, 6), scores)
    assert len({tuple(row.tolist()) for row in scores}) == 4


def test_what_is_fixed_is_one_order_for_all_images() -> None:
    scores = fixed_scores(torch.zeros(3, 11, 2), 2, 7)
    assert scores.shape == (3, 9)
    assert sorted(scores[0].tolist()) == list(range(9))
    assert torch.equal(scores[0], scores[2])
    assert not torch.equal(fixed_scores(torch.zeros(3, 11, 2), 2, 8), scores)


def test_fresh_seeds_are_of_torchs_global_generator() -> None:
    torch.manual_seed(0)
    one, other = fresh_seed(), fresh_seed()
    torch.manual_seed(0)
    assert (fresh_seed(), fresh_seed()) == (one, other)
    assert one != other


@pytest.mark.parametrize("prefix", [0, 2])
def test_learned_scores_add_up_to_one_and_gradients_pass(prefix: int) -> None:
    numbers = torch.randn(3, 7, 1, dtype=torch.float64, requires_grad=True)
    scores = patch_softmax(numbers, prefix)
    assert torch.equal(scores, numbers[:, prefix:, 0].softmax(1))
    torch.testing.assert_close(scores.sum(1), torch.ones(3, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda numbers: patch_softmax(numbers, prefix), [numbers])
    assert torch.equal(patch_softmax(numbers.detach(), prefix), scores)
