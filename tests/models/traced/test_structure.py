"""Blocks, heads and norms of models that are built in other ways."""

from __future__ import annotations

import pytest

from bsr_explorer.models.architecture import geometry
from bsr_explorer.models.traced.architecture import TracedGeometry
from bsr_explorer.naming import Naming


def _naming(model: str, size: int) -> Naming:
    found = geometry(model, size)
    assert isinstance(found, TracedGeometry)
    assert found.depth == len(found.naming.paths)
    return found.naming


@pytest.mark.parametrize(
    ("model", "size", "count", "first", "last", "head", "norm"),
    [
        ("resnet18", 32, 8, "layer1.0", "layer4.1", ("fc.",), ()),
        ("convnext_atto", 32, 12, "stages.0.blocks.0", "stages.3.blocks.1", ("head.fc.",), ("head.norm.",)),
        ("regnetx_002", 32, 13, "s1.b1", "s4.b7", ("head.fc.",), ()),
        (
            "deit_tiny_distilled_patch16_224",
            32,
            12,
            "blocks.0",
            "blocks.11",
            ("head.", "head_dist."),
            ("norm.",),
        ),
        ("mixer_s32_224", 224, 8, "blocks.0", "blocks.7", ("head.",), ("norm.",)),
    ],
)
def test_they_are_found_by_structure(
    model: str, size: int, count: int, first: str, last: str, head: tuple[str, ...], norm: tuple[str, ...]
) -> None:
    naming = _naming(model, size)
    assert (len(naming.paths), naming.paths[0], naming.paths[-1]) == (count, first, last)
    assert naming.head == head and naming.final_norm == norm


def test_what_stands_below_and_beside_is_told_apart() -> None:
    naming = _naming("tests.models.traced.small:build", 16)
    assert naming.paths == ("blocks.0", "blocks.1", "blocks.2")
    assert naming.is_below("stem.weight") and not naming.is_below("head.weight")
    assert naming.embeddings == ("place",)
    assert naming.layer_of("stem.weight", 3) == 0 and naming.layer_of("norm.weight", 3) == 4


def test_a_model_without_blocks_has_none() -> None:
    assert _naming("tests.models.traced.small:beside", 8).paths == ()
