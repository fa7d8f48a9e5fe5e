"""How an architecture names its parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from bsr_explorer.naming import TIMM, Naming, blocks_of, naming_of

OTHER = Naming("encoder.layers", ("out.",), ("last_norm.",), ("embed.",), ("embed.positions",))


@pytest.mark.parametrize(
    ("parameter", "block"),
    [
        ("blocks.1.norm1.weight", 1),
        ("blocks.11.mlp.fc1.bias", 11),
        ("blocks.10.attn.qkv.weight", 10),
        ("head.weight", None),
        ("norm.weight", None),
        ("cls_token", None),
        ("patch_embed.proj.weight", None),
    ],
)
def test_a_block_is_the_whole_number_in_a_name(parameter: str, block: int | None) -> None:
    assert TIMM.block_of(parameter) == block


@pytest.mark.parametrize(
    ("is_part", "parts"),
    [
        (TIMM.is_head, {"head.weight", "head.bias"}),
        (TIMM.is_final_norm, {"norm.weight", "fc_norm.bias"}),
    ],
)
def test_head_and_final_norm_are_told_from_the_rest(is_part: Callable[[str], bool], parts: set[str]) -> None:
    names = ["head.weight", "head.bias", "norm.weight", "fc_norm.bias", "norm_pre.weight", "pos_embed"]
    names += ["blocks.0.norm1.weight", "blocks.0.mlp.norm.weight", "patch_embed.norm.weight"]
    assert {name for name in names if is_part(name)} == parts


def test_another_architecture_has_other_names() -> None:
    assert OTHER.block_of("encoder.layers.12.mlp.weight") == 12
    assert OTHER.block_of("blocks.3.mlp.weight") is None
    assert OTHER.block_of("encoder.layers.norm.weight") is None
    assert OTHER.in_block("encoder.layers.12.mlp.weight") == "mlp.weight"
    assert OTHER.in_block("out.weight") == "out.weight"
    assert (OTHER.is_head("out.weight"), OTHER.is_final_norm("last_norm.bias")) == (True, True)


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [("embed.weight", 0), ("encoder.layers.2.x", 3), ("out.weight", 5), ("new.weight", 5)],
)
def test_layers_are_counted_from_below_the_blocks_to_the_head(parameter: str, layer: int) -> None:
    assert OTHER.layer_of(parameter, 4) == layer


def test_a_model_says_its_names_or_has_those_of_timm() -> None:
    plain, other = nn.Module(), nn.Module()
    plain.blocks = nn.ModuleList([nn.Identity()])
    other.encoder = nn.Module()
    other.encoder.layers = nn.ModuleList([nn.Identity(), nn.Identity()])
    other.parameter_naming = OTHER  # type: ignore[assignment]
    assert (naming_of(plain), len(blocks_of(plain))) == (TIMM, 1)
    assert (naming_of(other), len(blocks_of(other))) == (OTHER, 2)
