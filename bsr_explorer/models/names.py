"""Short names for the models that papers use. Any other timm vision transformer goes by its timm name."""

from __future__ import annotations

import re

ALIASES: dict[str, str] = {
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "vit_t": "vit_tiny_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
    "vit_l": "vit_large_patch16_224",
    "dinov2_s": "vit_small_patch14_dinov2",
    "dinov2_b": "vit_base_patch14_dinov2",
}


HUB = "hf-hub:"
"""Before the repository of a model that goes by it, in timm."""


def timm_name(model: str) -> str:
    """The timm name behind an alias, or behind a repository of timm's own on the hub; any other name as it is, written
    as timm writes it today."""
    if model.startswith("hf_hub:"):
        model = HUB + model.removeprefix("hf_hub:")
    own = model.removeprefix(f"{HUB}timm/")
    if own != model and "@" not in own:  # named after the model and its tag
        return own
    return ALIASES.get(model, model)


def in_paths(model: str) -> str:
    """A model's name as a part of a folder's."""
    return re.sub(r"[^\w.:+-]+", "-", model.rpartition("/")[2].partition("@")[0]).strip("-")
