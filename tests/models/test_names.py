"""Short names of models."""

from __future__ import annotations

import pytest
import timm

from bsr_explorer.models.names import ALIASES, in_paths, timm_name


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_stands_for_a_model_of_timm(alias: str) -> None:
    assert timm.is_model(timm_name(alias))


def test_no_alias_hides_a_model_of_timm() -> None:
    assert not [alias for alias in ALIASES if timm.is_model(alias)]


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("deit_s", "deit_small_patch16_224"),
        ("vit_t", "vit_tiny_patch16_224"),
        ("dinov2_s", "vit_small_patch14_dinov2"),
    ],
)
def test_an_alias_is_the_model_that_its_letters_say(alias: str, name: str) -> None:
    assert timm_name(alias) == name


def test_any_other_name_stays_as_it_is() -> None:
    assert timm_name("vit_small_patch8_224.dino") == "vit_small_patch8_224.dino"


@pytest.mark.parametrize(
    ("model", "name", "folder"),
    [
        ("hf-hub:timm/vit_b.augreg", "vit_b.augreg", "vit_b.augreg"),
        ("hf_hub:timm/vit_b.augreg", "vit_b.augreg", "vit_b.augreg"),
        ("hf-hub:timm/vit_b.augreg@old", "hf-hub:timm/vit_b.augreg@old", "vit_b.augreg"),
        ("hf_hub:acme/small", "hf-hub:acme/small", "small"),
        ("deit_s", "deit_small_patch16_224", "deit_s"),
    ],
)
def test_a_repository_is_written_in_one_way(model: str, name: str, folder: str) -> None:
    assert (timm_name(model), in_paths(model)) == (name, folder)
