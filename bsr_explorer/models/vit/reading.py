"""Reading the geometry of a vision transformer of timm, part by part."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bsr_explorer.errors import UserError
from bsr_explorer.models.check import check_model
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.vit.geometry import KNOWN, Geometry

if TYPE_CHECKING:
    from torch import nn

SUPPORTED = (
    "plain vision transformers of timm: DeiT, ViT, AugReg and DINOv2 (with or without registers), "
    "pre-norm blocks, GELU or SwiGLU, class-token or mean pooling"
)


@lru_cache(maxsize=256)
def geometry(model: str, image_size: int = 224, num_classes: int = 10) -> Geometry:
    """Geometry of an alias or timm name, at an image size and a number of classes.

    Raises:
        UserError: unknown name, a model that is not a plain vision transformer, or an image size that
            the patch does not divide.
    """
    name = timm_name(model)
    patch = KNOWN[name].patch if name in KNOWN else _patch(model, num_classes)
    if image_size <= 0 or image_size % patch:
        below, above = image_size // patch * patch, (image_size // patch + 1) * patch
        near = f"{below} or {above}" if below > 0 else f"{above}"
        raise UserError(
            f"--image-size: {image_size} is not a positive multiple of the patch of {model}, "
            f"{patch} pixels; the nearest is {near}"
        )
    if name in KNOWN:
        return replace(KNOWN[name], name=model, image_size=image_size, num_classes=num_classes)
    return read_from_timm(model, image_size, num_classes)


def _patch(model: str, num_classes: int) -> int:
    """Side of the patches of a timm model, pixels."""
    check_model(model)
    import timm

    from bsr_explorer.models.paper import on_paper

    with on_paper():
        probe = timm.create_model(timm_name(model), num_classes=num_classes)
    _refuse_other_classes(model, probe)
    return int(probe.patch_embed.patch_size[0])


def read_from_timm(model: str, image_size: int, num_classes: int) -> Geometry:
    """``geometry`` as timm builds the model, known or not.

    Raises:
        UserError: as ``read_geometry``.
    """
    import timm

    from bsr_explorer.models.paper import on_paper

    with on_paper():
        built = timm.create_model(timm_name(model), img_size=image_size, num_classes=num_classes)
    return read_geometry(built, model)


def read_geometry(model: nn.Module, name: str = "model") -> Geometry:
    """Geometry of a built timm model, whatever its device.

    Raises:
        UserError: a part that the cost model does not understand, by name.
    """
    _refuse_other_classes(name, model)
    from torch import nn

    vit: Any = model
    _refuse_unknown_parts(name, vit)
    block, embed = vit.blocks[0], vit.patch_embed
    grid = embed.grid_size
    if grid[0] != grid[1] or embed.patch_size[0] != embed.patch_size[1]:
        raise _refusal(name, f"its patch grid {grid} is not square")
    if isinstance(vit.norm, nn.Identity):
        final = "none" if isinstance(vit.fc_norm, nn.Identity) else "fc_norm"
    else:
        final = "norm"
    return Geometry(
        name=name,
        image_size=embed.img_size[0],
        num_classes=vit.head.out_features,
        patch=embed.patch_size[0],
        channels=embed.proj.in_channels,
        width=vit.embed_dim,
        depth=len(vit.blocks),
        heads=block.attn.num_heads,
        hidden=block.mlp.fc2.in_features,
        mlp="swiglu" if type(block.mlp).__name__ == "GluMlp" else "gelu",
        class_token=vit.cls_token is not None,
        register_tokens=0 if vit.reg_token is None else vit.reg_token.shape[1],
        position_embedding=vit.pos_embed is not None,
        embed_prefix=not vit.no_embed_class,
        patch_bias=embed.proj.bias is not None,
        qkv_bias=block.attn.qkv.bias is not None,
        proj_bias=block.attn.proj.bias is not None,
        layer_scale=not isinstance(block.ls1, nn.Identity),
        pre_norm=not isinstance(vit.norm_pre, nn.Identity),
        final_norm=final,  # type: ignore[arg-type]
        pool=vit.global_pool,
    )


def _refusal(name: str, why: str) -> UserError:
    return UserError(f"--model: {name} is not supported: {why}; supported are {SUPPORTED}")


def _refuse_other_classes(name: str, model: Any) -> None:
    from timm.models.vision_transformer import VisionTransformer

    if type(model) is not VisionTransformer:
        raise _refusal(name, f"it is a {type(model).__name__}")
    if type(model.patch_embed).__name__ != "PatchEmbed":
        raise _refusal(name, f"its stem is a {type(model.patch_embed).__name__}")


def _refuse_unknown_parts(name: str, vit: Any) -> None:
    """Each part of each block must be one that the tape can say."""
    from timm.layers import Attention, GluMlp, LayerNorm, LayerScale, Mlp, PatchEmbed
    from timm.models.vision_transformer import Block
    from torch import nn

    norms: set[type] = {nn.LayerNorm, LayerNorm}
    nothing: set[type] = {nn.Identity}
    _allow(name, "stem", vit.patch_embed, {PatchEmbed})
    _allow(name, "stem norm", vit.patch_embed.norm, nothing)
    if not vit.patch_embed.flatten or vit.dynamic_img_size:
        raise _refusal(name, "its image size is dynamic")
    _allow(name, "norm_pre", vit.norm_pre, norms | nothing)
    _allow(name, "patch_drop", vit.patch_drop, nothing)
    if vit.attn_pool is not None or vit.global_pool not in ("token", "avg"):
        raise _refusal(name, f"it pools by {vit.global_pool!r}")
    if vit.pool_include_prefix:
        raise _refusal(name, "its mean pooling includes prefix tokens")
    _allow(name, "norm", vit.norm, norms | nothing)
    _allow(name, "fc_norm", vit.fc_norm, norms | nothing)
    _allow(name, "head", vit.head, {nn.Linear})
    for index, block in enumerate(vit.blocks):
        where = f"block {index}'s "
        _allow(name, where + "type", block, {Block})
        _allow(name, where + "attention", block.attn, {Attention})
        for part in ("q_norm", "k_norm"):
            _allow(name, where + "query-key norm", getattr(block.attn, part), nothing)
        if block.attn.num_heads * block.attn.head_dim != vit.embed_dim:
            raise _refusal(name, where + "heads do not add up to the width")
        _allow(name, where + "attention norm", getattr(block.attn, "norm", nn.Identity()), nothing)
        if getattr(block.attn, "gate", None) is not None:
            raise _refusal(name, where + "attention is gated")
        _allow(name, where + "MLP", block.mlp, {Mlp, GluMlp})
        _allow(name, where + "MLP norm", block.mlp.norm, nothing)
        if isinstance(block.mlp, GluMlp):
            _allow(name, where + "activation", block.mlp.act, {nn.SiLU})
            if block.mlp.gate_last:
                raise _refusal(name, where + "MLP gates with its second half")
        else:
            _allow(name, where + "activation", block.mlp.act, {nn.GELU, *_timm_gelu()})
        for part in ("norm1", "norm2"):
            _allow(name, where + part, getattr(block, part), norms)
        for part in ("ls1", "ls2"):
            _allow(name, where + part, getattr(block, part), {LayerScale} | nothing)
        for part in ("drop_path1", "drop_path2"):
            _allow(name, where + part, getattr(block, part), nothing)
    dropping = [
        path for path, module in vit.named_modules() if isinstance(module, nn.Dropout) and module.p > 0
    ]
    if dropping:
        raise _refusal(name, f"{dropping[0]} drops out")


def _timm_gelu() -> set[type]:
    from timm.layers import activations

    return {activations.GELU, activations.GELUTanh}


def _allow(name: str, part: str, module: Any, types: Collection[type]) -> None:
    if type(module) not in types:
        raise _refusal(name, f"{part} is a {type(module).__name__}")
