"""``small_vit``: a vision transformer of 12 blocks that fine-tunes in seconds. Importing this file makes
timm, and with it ``Config(model="small_vit")``, know it.

Width 64, 2 heads, MLPs of 128, 28 px in patches of 7: 16 patch tokens, as many as deit_s has at 64 px.
"""

from __future__ import annotations

from typing import Any

from timm.models import is_model, register_model
from timm.models.vision_transformer import VisionTransformer

IMAGE_SIZE, DEPTH = 28, 12


def small_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """The model; of timm's options, ``img_size`` and ``num_classes``."""
    wanted = {key: options[key] for key in ("img_size", "num_classes") if key in options}
    wanted = {"img_size": IMAGE_SIZE, **wanted}
    model = VisionTransformer(patch_size=7, embed_dim=64, depth=DEPTH, num_heads=2, mlp_ratio=2, **wanted)
    model.pretrained_cfg = {"classifier": "head"}
    return model


if not is_model("small_vit"):  # two scripts of one process may both import it
    register_model(small_vit)
