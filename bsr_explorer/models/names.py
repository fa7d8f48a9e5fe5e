"""Short names for the models that papers use. Any other timm vision transformer goes by its timm name."""

from __future__ import annotations

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


def timm_name(model: str) -> str:
    """The timm name behind an alias; any other name as it is."""
    return ALIASES.get(model, model)
