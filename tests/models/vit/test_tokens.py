"""Dropping tokens, against a slow obvious reference and against the softmax of a real attention layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Attention
from torch import Tensor

from bsr_explorer.models.vit.tokens import class_attention, drop_tokens


@dataclass(frozen=True)
class Case:
    """Tokens (B, N, D) and distinct scores of the patches (B, N − P)."""

    x: Tensor
    scores: Tensor
    keep: float
    prefix: int
    fuse: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small random cases; no two patches of an image have the same score."""
    batch, prefix, patches = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    x = torch.randn(batch, prefix + patches, draw(st.integers(1, 4)), generator=generator)
    ranks = torch.stack([torch.randperm(patches, generator=generator) for _ in range(batch)])
    keep = draw(st.sampled_from([0.1, 0.25, 0.5, 0.7, 0.9, 1.0]))
    return Case(x, (ranks + 1) / patches, keep, prefix, draw(st.booleans()))


def _reference(case: Case) -> tuple[list[Tensor], list[set[int]]]:
    """For each image, with loops: the tokens that stay, in order of position, and which patches those are."""
    images, sets = [], []
    for tokens, scores in zip(case.x, case.scores, strict=True):
        patches = len(scores)
        kept = math.ceil(round(case.keep * patches, 9))
        best = sorted(range(patches), key=lambda i: float(scores[i]), reverse=True)[:kept]
        rows = [tokens[i] for i in range(case.prefix)]
        rows += [tokens[case.prefix + i] for i in sorted(best)]
        if case.fuse:
            fused = torch.zeros_like(tokens[0])
            for i in set(range(patches)) - set(best):
                fused = fused + scores[i] * tokens[case.prefix + i]
            rows.append(fused)
        images.append(torch.stack(rows))
        sets.append(set(best))
    return images, sets


@pytest.mark.parametrize("tokens", [5, 9, 17, 26, 50, 197])
def test_an_image_is_the_same_wherever_in_the_batch_it_stands(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    qkv = torch.randn(8, tokens, 3 * 192, generator=generator)
    scores = class_attention(qkv, 3, 1)
    for _ in range(5):
        order = torch.randperm(8, generator=generator)
        assert torch.equal(class_attention(qkv[order], 3, 1), scores[order])


def _in_order(case: Case, tokens: Tensor, kept: int) -> Tensor:
    """One image's tokens with the kept patches, which may come in any order, sorted as rows."""
    patches = tokens[case.prefix : case.prefix + kept]
    order = sorted(range(kept), key=lambda i: patches[i].tolist())
    return torch.cat([tokens[: case.prefix], patches[order], tokens[case.prefix + kept :]])


@settings(max_examples=60)
@given(cases())
def test_kept_and_fused_tokens_are_those_of_the_reference(case: Case) -> None:
    got = drop_tokens(case.x, case.scores, case.keep, case.prefix, case.fuse)
    for tokens, expected, kept in zip(got, *_reference(case), strict=True):
        torch.testing.assert_close(
            _in_order(case, tokens, len(kept)), _in_order(case, expected, len(kept)), rtol=1e-5, atol=1e-6
        )


@settings(max_examples=30)
@given(cases())
def test_gradients_are_those_of_the_reference(case: Case) -> None:
    def loss(images: Tensor | list[Tensor], x: Tensor) -> Tensor:
        squares = torch.stack([(tokens**2).sum() for tokens in images]).sum()
        return torch.autograd.grad(squares, x)[0]

    mine, theirs = (case.x.clone().requires_grad_() for _ in range(2))
    got = drop_tokens(mine, case.scores, case.keep, case.prefix, case.fuse)
    expected, _ = _reference(Case(theirs, case.scores, case.keep, case.prefix, case.fuse))
    torch.testing.assert_close(loss(got, mine), loss(expected, theirs), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_a_gather() -> None:
    """A gather over the positions of the best scores, as the authors' code selects."""
    generator = torch.Generator().manual_seed(0)
    x, scores = torch.randn(2, 9, 4, generator=generator), torch.rand(2, 8, generator=generator)
    weights = torch.randn(2, 6, 4, generator=generator)
    best = scores.topk(4, dim=1).indices

    def by_gather(x: Tensor) -> Tensor:
        patches, dropped = x[:, 1:], scores.scatter(1, best, 0.0)
        kept = patches.gather(1, best.unsqueeze(-1).expand(-1, -1, 4))
        return torch.cat([x[:, :1], kept, (dropped.unsqueeze(-1) * patches).sum(1, keepdim=True)], dim=1)

    gradients = []
    for select in (by_gather, lambda x: drop_tokens(x, scores, 0.5, 1, fuse=True)):
        leaf = x.clone().requires_grad_()
        (select(leaf) * weights).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("batch", [1, 3])
def test_without_weights_the_fused_token_is_the_mean_of_what_is_dropped(batch: int) -> None:
    x = torch.randn(batch, 9, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(batch, 7, dtype=torch.float64)
    got = drop_tokens(x, scores, 0.4, 2, fuse=True, mean=True)
    dropped = scores.argsort(dim=1, descending=True)[:, 3:] + 2
    expected = torch.stack([tokens[which].mean(0) for tokens, which in zip(x, dropped, strict=True)])
    torch.testing.assert_close(got[:, -1], expected)
    assert torch.autograd.gradcheck(lambda x: drop_tokens(x, scores, 0.4, 2, fuse=True, mean=True), [x])
    with torch.no_grad():
        assert torch.equal(drop_tokens(x, scores, 0.4, 2, fuse=True, mean=True), got)


def test_prefix_tokens_stay_first_and_untouched() -> None:
    x = torch.randn(2, 4 + 6, 3)
    got = drop_tokens(x, torch.rand(2, 6), keep=0.2, prefix=4, fuse=True)
    assert got.shape == (2, 4 + 2 + 1, 3)
    assert torch.equal(got[:, :4], x[:, :4])


def test_the_fused_token_is_not_renormalised() -> None:
    x = torch.tensor([[[9.0], [1.0], [2.0], [4.0]]])  # a class token and three patches
    got = drop_tokens(x, torch.tensor([[0.5, 0.25, 0.125]]), keep=0.3, prefix=1, fuse=True)
    assert got.flatten().tolist() == [9.0, 1.0, 2.0 * 0.25 + 4.0 * 0.125]


def test_positions_reach_every_image() -> None:
    x = torch.arange(12.0).view(3, 4, 1)
    scores = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    got = drop_tokens(x, scores, keep=0.3, prefix=1, fuse=False)
    assert got.flatten().tolist() == [0, 1, 4, 6, 8, 11]


@pytest.mark.parametrize(("batch", "prefix"), [(1, 1), (3, 1), (2, 3)])
def test_class_attention_is_the_class_row_of_the_layers_softmax(batch: int, prefix: int) -> None:
    torch.manual_seed(0)
    layer = Attention(12, num_heads=3)
    layer.fused_attn = False
    seen: dict[str, Tensor] = {}
    layer.qkv.register_forward_hook(lambda module, args, out: seen.update(qkv=out))
    layer.attn_drop.register_forward_hook(lambda module, args, out: seen.update(softmax=out))
    layer(torch.randn(batch, 7, 12))
    expected = seen["softmax"][:, :, 0, prefix:].mean(1)  # (B, heads, N, N), row of the class token
    torch.testing.assert_close(class_attention(seen["qkv"], heads=3, prefix=prefix), expected)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(("batch", "heads"), [(1, 2), (3, 2), (3, 1)])
def test_gradients_of_class_attention_are_those_of_the_softmax(
    batch: int, heads: int, explicit: bool
) -> None:
    qkv = torch.randn(batch, 7, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda qkv: class_attention(qkv, heads=heads, prefix=2, explicit=explicit), [qkv]
    )


@pytest.mark.parametrize("keep", [0.1, 0.5, 1.0])
def test_gradients_of_a_drop_reach_the_scores_of_what_is_dropped(keep: float) -> None:
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(2, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, s: drop_tokens(x, s, keep, 2, fuse=True), [x, scores])
    (gradient,) = torch.autograd.grad(drop_tokens(x, scores, keep, 2, fuse=True).sum(), scores)
    assert int((gradient != 0).sum()) == 2 * (7 - math.ceil(keep * 7))
    constant = drop_tokens(x.detach(), scores, keep, 2, fuse=True)  # nothing trains below
    assert torch.equal(torch.autograd.grad(constant.sum(), scores)[0], gradient)


def test_without_a_graph_and_with_one_the_same_is_computed() -> None:
    qkv, x = torch.randn(3, 9, 12), torch.randn(3, 9, 4)
    scores = class_attention(qkv, heads=2, prefix=1)
    assert torch.equal(class_attention(qkv.clone().requires_grad_(), heads=2, prefix=1), scores)
    expected = drop_tokens(x, scores, 0.4, 1, fuse=True)
    assert torch.equal(drop_tokens(x.clone().requires_grad_(), scores, 0.4, 1, fuse=True), expected)
