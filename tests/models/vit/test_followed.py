"""What becomes of patches, beside the tokens of the model themselves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.models.base import CRITERIA, Selection
from bsr_explorer.models.vit.drop import TokenDrop, drop_tokens_in
from bsr_explorer.models.vit.followed import all_tokens, follow_tokens
from bsr_explorer.models.vit.merge import merge_tokens_in

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _vit(**options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=12, depth=4, num_heads=3, num_classes=3, **options
    )


def _passing(model: Any, part: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Patch tokens before and after each part of this name, in the order of blocks."""
    seen = []
    for block in model.blocks:
        if hasattr(block, part):
            module = getattr(block, part)
            module.register_forward_hook(
                lambda module, args, out: seen.append(
                    tuple(x[:, module.prefix :].clone() for x in (args[0], out if part == "drop" else out[0]))
                )
            )
    return seen


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_patch_is_where_the_model_lays_its_token(criterion: str, fuse: bool) -> None:
    model = _vit(reg_tokens=2)
    for block in (0, 2):
        drop_tokens_in(model, block, Selection(0.5, fuse, False, criterion))
    seen = _passing(model, "drop")
    first, second = follow_tokens(model, IMAGES)
    assert [(each.block, each.by) for each in (first, second)] == [
        (0, CRITERIA[criterion]),
        (2, CRITERIA[criterion]),
    ]
    before = torch.arange(16).expand(3, -1)
    for followed, (there, here) in zip((first, second), seen, strict=True):
        for image in range(3):
            for patch in range(16):
                place = int(followed.places[image, patch])
                if place >= 0:
                    old = there[image, before[image, patch]]
                    assert torch.equal(here[image, place], old)
        before = followed.places
    assert bool((first.places >= 0).sum(1).eq(8).all())
    assert bool(((second.places >= 0) <= (first.places >= 0)).all())


def test_patches_of_a_merged_token_share_its_place_and_are_its_mean() -> None:
    model = _vit()
    merge_tokens_in(model, 3)
    seen = _passing(model, "merge")
    followed = follow_tokens(model, IMAGES)
    assert [each.block for each in followed] == [0, 1, 2, 3]
    assert [len(each.places[0].unique()) for each in followed] == [13, 10, 7, 4]
    there, here = seen[0]
    places = followed[0].places
    for image in range(3):
        for place in range(13):
            mean = there[image][places[image] == place].mean(0)
            torch.testing.assert_close(here[image, place], mean)
    for earlier, later in pairwise(followed):  # what is one token stays one
        for image in range(3):
            pairs = {
                (int(a), int(b)) for a, b in zip(earlier.places[image], later.places[image], strict=True)
            }
            assert len(pairs) == len(earlier.places[image].unique())


def test_the_model_is_left_as_it_was() -> None:
    model = _vit()
    drop_tokens_in(model, 1, Selection(0.5, True, True))
    drop = model.blocks[1].drop
    assert isinstance(drop, TokenDrop)
    assert model.training
    plain, chance = follow_tokens(model, IMAGES), follow_tokens(model, IMAGES, at_random=True)
    assert (plain[0].by, chance[0].by) == (CRITERIA["class_attention"], CRITERIA["random"])
    assert not torch.equal(plain[0].places, chance[0].places)
    assert bool((chance[0].places == chance[0].places[0]).all())  # in evaluation, of all images the same
    assert model.training
    assert drop.selection == Selection(0.5, True, True)
    assert drop.seen is None
    assert torch.equal(follow_tokens(model, IMAGES)[0].places, plain[0].places)


def test_where_nothing_is_dropped_there_is_nothing_to_follow() -> None:
    assert follow_tokens(_vit(), IMAGES) == []


@pytest.mark.parametrize("merges", [True, False])
def test_with_all_tokens_a_model_is_the_plain_one(merges: bool) -> None:
    plain, changed = _vit().eval(), _vit().eval()
    if merges:
        merge_tokens_in(changed, 3)
    else:
        drop_tokens_in(changed, 1, Selection(0.5, True, True))
    expected = changed(IMAGES)
    with all_tokens(changed):
        assert torch.equal(changed(IMAGES), plain(IMAGES))
    assert torch.equal(changed(IMAGES), expected)
    assert not torch.equal(expected, plain(IMAGES))
