"""Plain vision transformers as an architecture: in parts they compute what they compute whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bsr_explorer.models.architecture import architecture_of, build_model
from bsr_explorer.models.paper import on_paper
from bsr_explorer.models.vit.architecture import PlainViT

VIT = PlainViT()


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("name", "size"),
    [("toy", 48), ("vit_small_patch14_reg4_dinov2", 28), ("vit_medium_patch16_gap_256", 32)],
)
@torch.no_grad()
def test_stem_blocks_and_tail_are_the_whole(name: str, size: int) -> None:
    model: Any = VIT.build(name, size, 3).eval()
    images = torch.randn(2, 3, size, size)
    tokens = VIT.stem(model, images)
    for block in model.blocks:
        tokens = block(tokens)
    assert torch.equal(VIT.tail(model, tokens), model(images))


@pytest.mark.usefixtures("toy")
def test_the_norm_comes_after_the_blocks() -> None:
    model: Any = VIT.build("toy_2", 48, 3)
    called: list[str] = []
    model.blocks[-1].register_forward_hook(lambda *_: called.append("block"))
    VIT.after_blocks(model).register_forward_hook(lambda *_: called.append("after"))
    model(torch.zeros(1, 3, 48, 48))
    assert called == ["block", "after"]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("deit_tiny_patch16_224", True),
        ("deit_tiny_patch16_224.fb_in1k", True),
        ("no_such_model", False),
        ("no_such_model.fb_in1k", False),
    ],
)
def test_it_knows_the_names_of_timm(name: str, known: bool) -> None:
    assert VIT.knows(name) is known


@pytest.mark.parametrize(
    ("name", "token"), [("deit_t", True), ("dinov2_s", True), ("vit_medium_patch16_gap_256", False)]
)
def test_geometry_and_model_agree_on_the_class_token(name: str, token: bool) -> None:

    size = 14 * architecture_of(name).geometry(name, 224, 3).patch
    with on_paper():
        assert VIT.has_class_token(build_model(name, size, 3)) is token
    assert VIT.geometry(name, size, 3).class_token is token
