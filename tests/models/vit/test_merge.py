"""Merging alike tokens, against a slow obvious reference: what is merged, what it is then, and its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.methods.applied.checkpoint import checkpoint_block
from bsr_explorer.models.vit.merge import match_tokens, merge_sizes, merge_tokens, merge_tokens_in

HEADS = 3


def _vit(depth: int = 4, **options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=12, depth=depth, num_heads=HEADS, num_classes=3, **options
    )


def _as_the_authors(
    metric: torch.Tensor, x: torch.Tensor, sizes: torch.Tensor, r: int, class_token: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The authors' ``bipartite_soft_matching`` and ``merge_wavg``, by their description, with loops: all tokens by
    turns, a class token protected by a similarity of -inf. Of one image; sizes (N,)."""
    directions = metric / metric.norm(dim=-1, keepdim=True)
    scores = directions[::2] @ directions[1::2].T
    if class_token:
        scores[0] = -torch.inf
    best, onto = scores.max(dim=-1)
    order = best.argsort(descending=True).tolist()
    sources, left = order[:r], sorted(order[r:])
    weighted, counts = x * sizes[:, None], sizes
    ours, theirs = (list(part) for part in (weighted[::2], weighted[1::2]))
    mine, yours = (list(part) for part in (counts[::2], counts[1::2]))
    for source in sources:
        target = int(onto[source])
        theirs[target] = theirs[target] + ours[source]
        yours[target] = yours[target] + mine[source]
    tokens = torch.stack([*(ours[i] for i in left), *theirs])
    merged = torch.stack([*(mine[i] for i in left), *yours])
    return tokens / merged[:, None], merged


def _metric(qkv: torch.Tensor) -> torch.Tensor:
    return qkv.unflatten(2, (3, HEADS, -1))[:, :, 1].mean(2)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize(("tokens", "r"), [(17, 1), (17, 5), (17, 8), (16, 7), (10, 3)])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_merged_is_what_the_authors_merge(class_token: bool, tokens: int, r: int, batch: int) -> None:
    torch.manual_seed(tokens + r)
    qkv, x = torch.randn(batch, tokens, 36), torch.randn(batch, tokens, 5)
    sizes = torch.randint(1, 5, (batch, tokens)).float()
    into = match_tokens(qkv, HEADS, int(class_token), r)
    assert into.dtype is torch.int32
    merged = merge_sizes(into, sizes, r)
    got = merge_tokens(x, into, merged, sizes)
    for image in range(batch):
        expected, counts = _as_the_authors(_metric(qkv)[image], x[image], sizes[image], r, class_token)
        torch.testing.assert_close(got[image], expected)
        assert torch.equal(merged[image], counts)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_a_merge_keeps_the_prefix_and_the_mean_of_all_tokens(prefix: int) -> None:
    torch.manual_seed(prefix)
    qkv, x, sizes = torch.randn(2, prefix + 12, 36), torch.randn(2, prefix + 12, 4), None
    mean = x.mean(1)
    for r in (4, 3, 2):  # one merge after another
        into = match_tokens(qkv[:, : x.shape[1]], HEADS, prefix, r)
        merged = merge_sizes(into, sizes, r)
        new = merge_tokens(x, into, merged, sizes)
        assert new.shape == (2, x.shape[1] - r, 4)
        assert torch.equal(new[:, :prefix], x[:, :prefix])
        assert bool((merged[:, :prefix] == 1).all())
        x, sizes = new, merged
    assert sizes is not None
    assert sizes.sum(1).tolist() == [prefix + 12] * 2
    torch.testing.assert_close((x * sizes.unsqueeze(2)).sum(1) / (prefix + 12), mean)


@pytest.mark.parametrize("sized", [True, False])
def test_gradients_of_a_merge(sized: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    into = match_tokens(torch.randn(2, 9, 36), HEADS, 1, 3)
    sizes = torch.randint(1, 4, (2, 9)).double() if sized else None
    merged = merge_sizes(into, sizes, 3) if sizes is None else _counted(into, sizes)
    assert torch.autograd.gradcheck(lambda x: merge_tokens(x, into, merged.double(), sizes), [x])


def _counted(into: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    return torch.zeros(12, dtype=torch.float64).index_add_(0, into.flatten(), sizes.flatten()).view(2, 6)


@pytest.mark.parametrize("tokens", [17, 50, 197])
def test_an_image_is_the_same_wherever_in_the_batch_it_stands(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    qkv = torch.randn(8, tokens, 3 * 192, generator=generator)
    order = torch.randperm(8, generator=generator)
    images = torch.arange(8).unsqueeze(1) * (tokens - 4)
    plain = match_tokens(qkv, 3, 1, 4) - images
    assert torch.equal(match_tokens(qkv[order], 3, 1, 4) - images, plain[order])


def test_merging_nothing_is_exact_and_names_stay() -> None:
    plain, merging = _vit().eval(), _vit().eval()
    merge_tokens_in(merging, 0)
    assert list(merging.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images), merging(images))


def test_blocks_hand_on_sizes_and_nothing_is_left() -> None:
    model = _vit()
    merge_tokens_in(model, 3)
    seen: list[tuple[int, ...]] = []
    given: list[torch.Tensor | None] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
        block.merge.register_forward_hook(lambda module, args, out: given.append(args[1]))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert seen == [(2, 14, 12), (2, 11, 12), (2, 8, 12), (2, 5, 12)]
    assert given[0] is None
    assert [int(sizes.sum()) for sizes in given[1:] if sizes is not None] == [2 * 17] * 3
    assert model.blocks[0]._sizes.now is None
    model(torch.randn(5, 3, 32, 32))  # of another number of images


def test_blocks_that_run_again_compute_the_same() -> None:
    plain, again = _vit(), _vit()
    images = torch.randn(2, 3, 32, 32)
    for model in (plain, again):
        merge_tokens_in(model, 3)
    for block in (1, 2):
        checkpoint_block(again, block)
    for _ in range(2):
        for model in (plain, again):
            model.zero_grad()
            model(images).square().sum().backward()
        assert again.blocks[0]._sizes.now is None
        for one, other in zip(plain.parameters(), again.parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert torch.equal(one.grad, other.grad)


# --- attention in proportion to sizes ---------------------------------------------------------------------


def _attended(block: Any, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """softmax(Q·Kᵀ/√d + log s)·V of a block, by the formula."""
    batch, tokens, width = x.shape
    q, k, v = block.attn.qkv(block.norm1(x)).view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3) * (width // HEADS) ** -0.5 + sizes.log()[:, None, None]
    out: torch.Tensor = block.attn.proj(
        (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
    )
    return out


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("again", [False, True])
def test_attention_has_the_logarithm_of_sizes_added_to_its_scores(fused: bool, again: bool) -> None:
    model = _vit()
    merge_tokens_in(model, 5, proportional=True)
    entered: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    made: list[torch.Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = fused
        block.attn.register_forward_hook(lambda module, inputs, out: made.append(out))
        block.register_forward_hook(lambda module, inputs, out: entered.append(inputs))
    if again:
        checkpoint_block(model, 2)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    for block, (x, sizes), out in zip(model.blocks, entered, made, strict=False):
        sizes = torch.ones(x.shape[:2]) if sizes is None else sizes
        torch.testing.assert_close(out, _attended(block, x, sizes), rtol=1e-4, atol=1e-5)
    assert entered[0][1] is None
    assert [inputs[0].shape[1] for inputs in entered] == [17, 12, 7, 4]
    assert all(sizes is not None and bool((sizes > 1).any()) for _, sizes in entered[1:4])


def test_sizes_are_those_of_before_where_a_block_merges_nothing() -> None:
    """One patch is left after a while, which attention is to know of."""
    model = _vit(depth=6)
    merge_tokens_in(model, 8, proportional=True)
    given: list[torch.Tensor | None] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, out: given.append(inputs[1]))
    model(torch.randn(1, 3, 32, 32))
    assert [None if sizes is None else sizes.tolist()[0][-1] for sizes in given[4:]] == [16, 16]


def test_without_sizes_it_is_the_models_own_attention() -> None:
    plain, ours = _vit(depth=1), _vit(depth=1)
    merge_tokens_in(plain, 3)
    merge_tokens_in(ours, 3, proportional=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images), ours(images))  # the first block's tokens are one each
