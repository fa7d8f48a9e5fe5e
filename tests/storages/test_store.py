"""Blocks of a whole model, told to pack what they keep."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.storages import Narrow, Packing
from bsr_explorer.storages.keeper import Keeper
from bsr_explorer.storages.store import store_kept
from tests.cost.conftest import SMALL

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("explicit", [True, False])
def test_every_block_is_asked_and_packs_what_is_said(explicit: bool) -> None:
    asked: set[tuple[str, int, int]] = set()

    def stores(block: int, layer: str, place: str, heads: int, channels: int) -> Packing | None:
        asked.add((place, heads, channels))
        return Narrow("fp16") if place in ("hidden", "softmax") else None

    model = VisionTransformer(**SMALL)
    before = model(IMAGES)
    store_kept(model, stores, explicit)
    kept = {name for name, module in model.named_modules() if isinstance(module, Keeper)}
    hidden = {f"blocks.{block}.mlp.act.kept_hidden" for block in range(2)}
    assert {name for name in kept if name.endswith("hidden")} == hidden
    assert {(heads, channels) for place, heads, channels in asked if place == "hidden"} == {(3, 48)}
    assert {block.attn.fused_attn for block in model.blocks} == {not explicit}
    assert ("softmax", 3, 1) in asked if explicit else all(place != "softmax" for place, *_ in asked)
    torch.testing.assert_close(model(IMAGES), before)


def test_what_stands_outside_the_blocks_is_left_alone() -> None:
    model = VisionTransformer(**SMALL)
    store_kept(model, lambda block, layer, place, heads, channels: Narrow("fp16"), explicit_softmax=False)
    kept = [name for name, module in model.named_modules() if isinstance(module, Keeper)]
    assert kept and all(name.startswith("blocks.") for name in kept)
