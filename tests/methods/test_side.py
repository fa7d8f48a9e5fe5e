"""What all side networks share: what they read, where they stand, what is left of a pass that was broken off."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.methods import METHODS
from bsr_explorer.methods.side import SideNetwork, features, in_blocks, lies_by_channel, pooling
from bsr_explorer.models.architecture import geometry
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.prediction import tape_of, tokens_by_block
from bsr_explorer.search.features import _seen

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")
NAMES = [name for name, method in METHODS.items() if issubclass(method, SideNetwork)]
every_side_network = pytest.mark.parametrize("name", NAMES)


def test_what_enters_and_leaves_blocks_what_pools_and_what_the_head_reads() -> None:
    tape = tape_of(CONFIG)
    assert list(in_blocks(tape))[1:] == [
        (block, f"blocks.{block - 1}.out", f"blocks.{block}.out") for block in (1, 2, 3)
    ]
    assert (features(tape), pooling(tape).kind) == ("pooled", "select_token")


@pytest.mark.parametrize(
    ("model", "lies"),
    [
        ("deit_t", False),
        ("vit_wee_patch16_reg1_gap_256", False),
        ("vit_base_patch16_clip_224", False),
        ("vit_base_patch16_siglip_gap_224", True),
    ],
)
def test_without_tokens_before_them_patches_lie_by_channel(model: str, lies: bool) -> None:
    """As a model runs them: what a convolution makes is a transposed view, and a sum lies as its first summand."""
    import timm

    size = 64
    tape = step_tape(geometry(model, size, 5), 1, "math")  # type: ignore[arg-type]
    assert lies_by_channel(tape) is lies
    vit: Any = timm.create_model(timm_name(model), img_size=size, num_classes=5)
    entered: list[torch.Tensor] = []
    vit.blocks = torch.nn.Sequential(vit.blocks[0])
    vit.blocks[0].register_forward_pre_hook(lambda block, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        vit(torch.randn(2, 3, size, size))
    assert entered[0].is_contiguous() is not lies


@every_side_network
def test_it_stands_beside_the_backbone(name: str) -> None:
    """Its operations are of a part of their own, and blocks hand on as many tokens as without it."""
    config = CONFIG.with_method(name)
    tape, plain = tape_of(config), tape_of(CONFIG)
    assert [(op.name, op.kind) for op in tape.backbone] == [(op.name, op.kind) for op in plain]
    method: Any = METHODS[name]
    assert {op.part for op in tape if op.part} == {method.module}
    assert tokens_by_block(config) == tokens_by_block(CONFIG)
    assert set(_seen(config, 4).tokens) == {0.0}


@every_side_network
def test_what_is_left_of_a_broken_pass_is_forgotten(name: str) -> None:
    model: Any = build(CONFIG.with_method(name), seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
        images = torch.randn(2, 3, 48, 48)
        expected = model(images)

        def broken(*_: Any) -> None:
            raise KeyboardInterrupt

        hook = model.blocks[2].mlp.register_forward_hook(broken)
        with pytest.raises(KeyboardInterrupt):
            model(-images)
        hook.remove()
        assert torch.equal(model(images), expected)
