"""The geometry of a vision transformer: everything that its costs depend on, as plain numbers.

It is read from a timm model built without memory (on the meta device), by asking each module what it
is. A part that is not understood is refused by name: a wrong cost is worse than none. (Models with an alias are
known, and need no timm.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Geometry:
    """A plain pre-norm vision transformer.

    Attributes:
        image_size: side of the square image, pixels.
        patch: side of a patch, pixels.
        width: embedding dimension D.
        hidden: inputs of the second MLP layer.
        mlp: ``gelu``, or ``swiglu`` (whose first layer is twice ``hidden`` wide).
        prefix_tokens: class token and registers, which are never dropped.
        embed_prefix: whether the position embedding covers the prefix tokens.
        final_norm: where the last LayerNorm stands: ``norm`` (all tokens), ``fc_norm`` (after pooling)
            or ``none``.
        pool: ``token`` (the class token) or ``avg``.
        tasks: classes of each task, where the head is that of several side by side; nothing: it is of one.
    """

    name: str
    image_size: int
    num_classes: int
    patch: int
    channels: int
    width: int
    depth: int
    heads: int
    hidden: int
    mlp: Literal["gelu", "swiglu"]
    class_token: bool
    register_tokens: int
    position_embedding: bool
    embed_prefix: bool
    patch_bias: bool
    qkv_bias: bool
    proj_bias: bool
    layer_scale: bool
    pre_norm: bool
    final_norm: Literal["norm", "fc_norm", "none"]
    pool: Literal["token", "avg"]
    tasks: tuple[int, ...] = ()

    @property
    def prefix_tokens(self) -> int:
        """Class token plus registers."""
        return int(self.class_token) + self.register_tokens

    @property
    def patches(self) -> int:
        """Patch tokens of one image."""
        return (self.image_size // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """All tokens of one image, N."""
        return self.prefix_tokens + self.patches


_PLAIN = Geometry(
    name="",
    image_size=224,
    num_classes=0,
    patch=16,
    channels=3,
    width=384,
    depth=12,
    heads=6,
    hidden=1536,
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
_TINY = replace(_PLAIN, width=192, heads=3, hidden=768)
_BASE = replace(_PLAIN, width=768, heads=12, hidden=3072)
_LARGE = replace(_PLAIN, width=1024, depth=24, heads=16, hidden=4096)

KNOWN: dict[str, Geometry] = {
    "deit_tiny_patch16_224": _TINY,
    "deit_small_patch16_224": _PLAIN,
    "deit_base_patch16_224": _BASE,
    "vit_tiny_patch16_224": _TINY,
    "vit_small_patch16_224": _PLAIN,
    "vit_base_patch16_224": _BASE,
    "vit_large_patch16_224": _LARGE,
    "vit_small_patch14_dinov2": replace(_PLAIN, patch=14, layer_scale=True),
    "vit_base_patch14_dinov2": replace(_BASE, patch=14, layer_scale=True),
}
"""Of the models that have an alias, so that their costs are known without loading torch. A test reads them of timm."""
