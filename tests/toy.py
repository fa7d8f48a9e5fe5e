"""Vision transformers that train in no time; whoever imports this can build them by name.

It is a module of its own so that processes of trials can import it too.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer


def _build(depth: int, options: dict[str, Any]) -> VisionTransformer:
    wanted = {key: options[key] for key in ("img_size", "num_classes") if key in options}
    if torch.get_default_device().type == "meta":
        wanted["weight_init"] = "skip"  # nothing is there to draw, and pretending takes longest
    model = VisionTransformer(patch_size=16, embed_dim=32, depth=depth, num_heads=2, **wanted)
    model.pretrained_cfg = {"classifier": "head"}
    return model


@register_model
def toy(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """4 blocks."""
    return _build(4, options)


@register_model
def toy_2(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """2 blocks."""
    return _build(2, options)
