"""The tape of a vision transformer: its parameters are the model's, its parts add up to the whole."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bsr_explorer.models.base import Selection
from bsr_explorer.models.names import ALIASES, timm_name
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.reading import geometry, read_geometry
from bsr_explorer.models.vit.step import block_tape, drop_tokens, stem_tape, step_tape, tail_tape

OTHERS = [
    "vit_small_patch14_reg4_dinov2",  # registers, LayerScale
    "deit3_small_patch16_224",  # no position of the class token
    "vit_xsmall_patch16_clip_224",  # a norm before the blocks
    "vit_medium_patch16_gap_256",  # no class token, mean pooling
    "vit_wee_patch16_reg1_gap_256",  # registers without a class token, fc_norm
    "eva_large_patch14_196",  # mean pooling beside a class token
    "vit_small_patch16_36x1_224",  # 36 blocks
]


def _meta(**options: Any) -> VisionTransformer:
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}
    with torch.device("meta"):
        return VisionTransformer(**{**size, **options})


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def _tape_shapes(geometry: Geometry) -> dict[str, tuple[int, ...]]:
    return {name: p.shape for name, p in step_tape(geometry, 1, "fused").parameters.items()}


@pytest.mark.parametrize("model", [*ALIASES, *OTHERS])
def test_parameters_are_those_of_the_model(model: str) -> None:
    with torch.device("meta"):
        real = timm.create_model(timm_name(model), num_classes=10)
    assert _tape_shapes(read_geometry(real)) == _shapes(real)


@pytest.mark.parametrize(
    "options",
    [
        {"qkv_bias": False, "proj_bias": False, "final_norm": False},
        {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4},
        {"reg_tokens": 2, "no_embed_class": True, "init_values": 1e-5, "pos_embed": "none"},
        {"in_chans": 1, "pre_norm": True, "global_pool": "avg"},
    ],
)
def test_parameters_are_those_of_a_model_of_odd_parts(options: dict[str, Any]) -> None:
    model = _meta(**options)
    assert _tape_shapes(read_geometry(model)) == _shapes(model)


def test_a_parameter_belongs_to_the_block_in_its_name() -> None:
    blocks = {name: p.block for name, p in step_tape(geometry("deit_t", 64), 1, "fused").parameters.items()}
    assert blocks["blocks.11.norm1.weight"] == 11
    assert blocks["blocks.1.attn.qkv.bias"] == 1
    assert blocks["cls_token"] is None
    assert blocks["norm.weight"] is None


def test_operations_are_named_by_the_modules_that_run_them() -> None:
    model = _meta(init_values=1e-5)
    paths = {name for name, _ in model.named_modules()} | {"loss", "_pos_embed"}  # a method of the model
    assert {op.name for op in step_tape(read_geometry(model), 1, "fused")} <= paths


def test_stem_blocks_and_tail_make_up_a_step() -> None:
    vit = read_geometry(_meta(depth=1, reg_tokens=2, pre_norm=True, init_values=1e-5))
    whole = step_tape(vit, 3, "math")
    parts = [stem_tape(vit, 3), block_tape(vit, 3, vit.tokens, "math"), tail_tape(vit, 3, vit.tokens)]
    assert [(op.name, op.kind) for op in whole] == [(op.name, op.kind) for part in parts for op in part]
    assert list(whole.parameters) == [name for part in parts for name in part.parameters]
    assert [t.shape for t in whole.tensors.values() if t.role == "activation"] == [
        tensor.shape
        for part in parts
        for name, tensor in part.tensors.items()
        if tensor.role == "activation" and name != "x"
    ]


def test_a_drop_stands_between_the_branches_of_its_block() -> None:
    tape = drop_tokens(
        step_tape(read_geometry(_meta()), 1, "fused"), 1, Selection(0.5, fuse=True, faithful=True)
    )
    kinds = [op.kind for op in tape if op.block == 1]
    assert kinds == [
        "layer_norm",
        "linear",
        "attention",
        "linear",
        "add",
        "class_attention",
        "drop_tokens",
        "layer_norm",
        "linear",
        "gelu",
        "linear",
        "add",
    ]


def test_both_branches_of_a_block_that_drops_go_on_with_the_kept_tokens() -> None:
    tape = drop_tokens(
        step_tape(read_geometry(_meta()), 1, "fused"), 1, Selection(0.5, fuse=False, faithful=False)
    )
    reads = {op.name: op.reads for op in tape if "blocks.1.kept" in op.reads}
    assert set(reads) == {"blocks.1.norm2", "blocks.1"}
    assert tape.tensors["blocks.1.out"].shape == (1, 1 + 8, 12)


def test_registers_are_no_patches() -> None:
    tape = step_tape(read_geometry(_meta(reg_tokens=4)), 1, "fused")
    assert drop_tokens(tape, 0, Selection(0.5, False, False)).tensors["blocks.0.out"].shape == (1, 5 + 8, 12)


def test_where_every_token_stays_there_is_a_fused_token_where_the_authors_have_one() -> None:
    tape = step_tape(read_geometry(_meta()), 1, "fused")
    assert drop_tokens(tape, 0, Selection(0.99, fuse=True, faithful=False)) is tape
    more = drop_tokens(tape, 0, Selection(0.99, fuse=True, faithful=True))
    assert more.tensors["blocks.0.out"].shape == (1, 1 + 16 + 1, 12)
