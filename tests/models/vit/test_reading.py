"""What is read from a model of timm, part by part, and which models are refused, by name."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.layers import SwiGLU, SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.reading import geometry, read_geometry


def _read(**options: Any) -> Geometry:
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}
    with torch.device("meta"):
        return read_geometry(VisionTransformer(**{**size, **options}), "mine")


def test_deit_t_at_64_pixels() -> None:
    assert geometry("deit_t", 64, 7) == Geometry(
        name="deit_t",
        image_size=64,
        num_classes=7,
        patch=16,
        channels=3,
        width=192,
        depth=12,
        heads=3,
        hidden=768,
        mlp="gelu",
        class_token=True,
        register_tokens=0,
        position_embedding=True,
        embed_prefix=True,
        patch_bias=True,
        qkv_bias=True,
        proj_bias=True,
        layer_scale=False,
        pre_norm=False,
        final_norm="norm",
        pool="token",
    )


@pytest.mark.parametrize(
    ("options", "attribute", "value"),
    [
        ({"init_values": 1e-5}, "layer_scale", True),
        ({"pre_norm": True}, "pre_norm", True),
        ({"qkv_bias": False}, "qkv_bias", False),
        ({"proj_bias": False}, "proj_bias", False),
        ({"mlp_ratio": 2}, "hidden", 24),
        ({"in_chans": 1}, "channels", 1),
        ({"no_embed_class": True}, "embed_prefix", False),
        ({"pos_embed": "none"}, "position_embedding", False),
        ({"reg_tokens": 4}, "register_tokens", 4),
        ({"final_norm": False}, "final_norm", "none"),
        ({"global_pool": "avg"}, "final_norm", "fc_norm"),
        ({"global_pool": "avg", "fc_norm": False}, "final_norm", "norm"),
        ({"global_pool": "avg", "class_token": False}, "class_token", False),
        ({"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}, "mlp", "swiglu"),
        ({"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4}, "hidden", 24),
    ],
)
def test_each_part_is_read(options: dict[str, Any], attribute: str, value: Any) -> None:
    assert getattr(_read(**options), attribute) == value


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("swin_tiny_patch4_window7_224", "it is a SwinTransformer"),
        ("deit_tiny_distilled_patch16_224", "it is a VisionTransformerDistilled"),
        ("eva02_tiny_patch14_224", "it is a Eva"),
        ("vit_relpos_small_patch16_224", "it is a VisionTransformerRelPos"),
        ("vit_tiny_r_s16_p8_224", "its stem is a HybridEmbed"),
        ("vit_small_r26_s32_224", "its stem is a HybridEmbed"),
        ("vit_base_patch16_siglip_224", "it pools by 'map'"),
        ("vit_base_patch32_clip_quickgelu_224", "block 0's activation is a QuickGELU"),
        ("vit_pwee_patch16_reg1_gap_256", "block 0's type is a ParallelScalingBlock"),
        ("vit_small_patch16_18x2_224", "block 0's type is a ParallelThingsBlock"),
        ("vit_dlittle_patch16_reg1_gap_256", "block 0's attention is a DiffAttention"),
        ("test_vit", "its image size is dynamic"),
        ("resnet18", "it is a ResNet"),
    ],
)
def test_a_model_that_is_not_understood_is_refused_by_name_and_part(model: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        geometry(model)
    assert str(error.value).startswith(
        f"--model: {model} is not supported: {why}; supported are plain vision"
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"qk_norm": True}, "block 0's query-key norm is a LayerNorm"),
        ({"scale_attn_norm": True}, "block 0's attention norm is a LayerNorm"),
        ({"scale_mlp_norm": True}, "block 0's MLP norm is a LayerNorm"),
        ({"mlp_layer": SwiGLU, "act_layer": nn.SiLU}, "block 0's MLP is a SwiGLU"),
        ({"mlp_layer": SwiGLUPacked}, "block 0's activation is a GELU"),
        ({"act_layer": nn.ReLU}, "block 0's activation is a ReLU"),
        ({"drop_path_rate": 0.1}, "block 1's drop_path1 is a DropPath"),
        ({"proj_drop_rate": 0.1}, "blocks.0.attn.proj_drop drops out"),
        ({"attn_drop_rate": 0.1}, "blocks.0.attn.attn_drop drops out"),
        ({"patch_drop_rate": 0.5}, "patch_drop is a PatchDropout"),
        ({"num_classes": 0}, "head is a Identity"),
        ({"img_size": (32, 16)}, "its patch grid (4, 2) is not square"),
        ({"pool_include_prefix": True, "global_pool": "avg"}, "its mean pooling includes prefix tokens"),
    ],
)
def test_a_part_that_is_not_understood_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as error:
        _read(**options)
    assert f"mine is not supported: {why}; " in str(error.value)


def test_every_block_is_looked_at() -> None:
    with torch.device("meta"):
        model = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=3, num_heads=3)
    model.blocks[2].mlp.act = nn.ReLU()
    with pytest.raises(UserError, match="block 2's activation is a ReLU"):
        read_geometry(model)


def test_a_pretrained_tag_may_follow_the_name() -> None:
    tagged = geometry("deit_tiny_patch16_224.fb_in1k", 64)
    assert (tagged.width, tagged.depth) == (192, 12)


@pytest.mark.parametrize(
    ("model", "size", "near"),
    [("deit_t", 230, "224 or 240"), ("deit_t", 5, "16"), ("dinov2_s", 224 + 13, "224 or 238")],
)
def test_a_size_that_the_patch_does_not_divide_gives_the_nearest(model: str, size: int, near: str) -> None:
    with pytest.raises(UserError) as error:
        geometry(model, size)
    assert str(error.value).startswith(f"--image-size: {size} ")
    assert str(error.value).endswith(f"the nearest is {near}")


def test_reading_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[nn.Module] = []
    create = timm.create_model

    def spy(*args: Any, **kwargs: Any) -> nn.Module:
        built.append(create(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(timm, "create_model", spy)
    geometry("vit_tiny_patch16_384", 32, 3)
    assert built
    assert all(p.is_meta for model in built for p in model.parameters())
