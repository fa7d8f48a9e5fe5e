"""Which architecture a model is of, by its name and built."""

from __future__ import annotations

from typing import Any

import pytest
import timm
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.models.architecture import (
    ARCHITECTURES,
    architecture_of,
    architecture_of_model,
    build_model,
    geometry,
)
from bsr_explorer.models.base import Architecture
from bsr_explorer.models.paper import on_paper
from bsr_explorer.models.vit.architecture import PlainViT
from bsr_explorer.naming import TIMM


class Rows(PlainViT):
    """Vision transformers under names of their own."""

    name = "rows"

    def knows(self, model: str) -> bool:
        """Those that begin so."""
        return model.startswith("rows_")

    def build(self, model: str, image_size: int, num_classes: int) -> nn.Module:
        """The toy."""
        return super().build("toy_2", image_size, num_classes)


@pytest.fixture
def rows(toy: str, monkeypatch: pytest.MonkeyPatch) -> Architecture:
    monkeypatch.setitem(ARCHITECTURES, "rows", Rows())
    return ARCHITECTURES["rows"]


def test_each_is_under_its_own_name() -> None:
    assert {name: each.name for name, each in ARCHITECTURES.items()} == {name: name for name in ARCHITECTURES}


def test_a_name_is_of_the_architecture_that_knows_it(rows: Architecture) -> None:
    assert architecture_of("rows_small") is rows
    assert architecture_of("deit_t") is ARCHITECTURES["vit"]


def test_a_name_that_none_knows_is_refused_as_a_vision_transformer() -> None:
    assert architecture_of("no_such_model") is ARCHITECTURES["vit"]
    with pytest.raises(UserError, match="unknown model 'no_such_model'"):
        geometry("no_such_model")


def test_a_built_model_knows_its_architecture(rows: Architecture) -> None:
    built: Any = build_model("rows_small", 48, 3)
    assert architecture_of_model(built) is rows
    assert built.parameter_naming is TIMM
    assert (len(built.blocks), built.head.out_features) == (2, 3)


def test_a_model_of_timm_that_says_nothing_is_a_vision_transformer() -> None:
    with on_paper():
        assert architecture_of_model(timm.create_model("deit_tiny_patch16_224")) is ARCHITECTURES["vit"]


def test_an_alias_is_built_as_timm_names_it() -> None:
    with on_paper():
        built: Any = build_model("deit_t", 64, 7)
    assert (built.embed_dim, built.patch_embed.img_size, built.head.out_features) == (192, (64, 64), 7)


def test_a_geometry_is_that_of_the_size_and_classes_asked_for() -> None:
    read = geometry("deit_t", 64, 7)
    assert (read.name, read.image_size, read.num_classes, read.depth) == ("deit_t", 64, 7, 12)
