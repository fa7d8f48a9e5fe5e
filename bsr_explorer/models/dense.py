"""Dense prediction: a class for each pixel, by a head on features of a backbone of timm.

As models of one's own, which are traced::

    bsr_explorer.models.dense:linear(backbone="deit_t")
    bsr_explorer.models.dense:upernet_lite(backbone="deit_t", width=128)

Images (B, 3, S, S) to logits (B, classes, S, S); labels are (B, S, S), the loss is the mean cross-entropy of all
pixels. Any model of timm that has ``forward_intermediates`` may be the backbone. Methods find its blocks; what they
call the head is the decoder.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsr_explorer.errors import UserError
from bsr_explorer.models.names import timm_name

LEVELS = 4
"""Feature maps that UPerNet decodes."""


def linear(image_size: int, num_classes: int, backbone: str = "deit_s") -> nn.Module:
    """A 1×1 convolution on the last feature map (Oquab et al., DINOv2, 2023, section 7.4).

    Raises:
        UserError: the backbone has no feature maps.
    """
    body, widths = _backbone(backbone, image_size, 1)
    return Dense(body, Linear(widths[-1], num_classes), 1)


def upernet_lite(image_size: int, num_classes: int, backbone: str = "deit_s", width: int = 128) -> nn.Module:
    """A small UPerNet (Xiao et al., 2018) on four feature maps: see ``UPerNetLite``.

    Args:
        width: channels of the decoder, a multiple of 4.

    Raises:
        UserError: the backbone has no feature maps, or the width is no such number.
    """
    if not isinstance(width, int) or width < 4 or width % 4:
        raise UserError(f"--model: width: {width!r} must be a multiple of 4, for pooled maps have a quarter")
    body, widths = _backbone(backbone, image_size, LEVELS)
    return Dense(body, UPerNetLite(widths, num_classes, width), LEVELS)


class Dense(nn.Module):
    """A backbone, a head on its feature maps, and their logits at the size of the images.

    Args:
        backbone: of timm.
        head: of feature maps (B, C, H, W), the last ``levels``, to logits (B, classes, h, w).
    """

    labels: ClassVar[str] = "pixels"

    def __init__(self, backbone: nn.Module, head: nn.Module, levels: int) -> None:
        super().__init__()
        self.backbone, self.head, self.levels = backbone, head, levels
        self.pretrained_cfg = {"classifier": "head"}  # timm's word for what is fresh in a fine-tuning

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) → logits (B, classes, S, S)."""
        features = cast(Any, self.backbone).forward_intermediates(
            images, indices=self.levels, norm=True, intermediates_only=True
        )
        return _resized(self.head(features), images.shape[-1])


class Linear(nn.Module):
    """A 1×1 convolution on the last feature map."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps (B, C, H, W) → logits (B, classes, H, W)."""
        out: Tensor = self.classify(features[-1])
        return out


class UPerNetLite(nn.Module):
    """UPerNet with one 3×3 convolution after pooling and one after fusing. Pooled maps have no norm, which one image
    would stop. Feature maps of one size (a plain vision transformer's) become a pyramid by resizing to 4, 2, 1 and ½
    times theirs, as BEiT's does.

    Args:
        widths: channels of the feature maps.
        width: its own channels.
    """

    pools: ClassVar[tuple[int, ...]] = (1, 2, 3, 6)

    def __init__(self, widths: list[int], num_classes: int, width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_layer(channels, width, 1) for channels in widths)
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width // 4, 1), nn.ReLU()) for _ in self.pools
        )
        self.top = _layer(2 * width, width, 3)
        self.fuse = _layer(len(widths) * width, width, 3)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps (B, C, H, W), large to small → logits (B, classes, h, w) at the largest size."""
        maps = [layer(x) for layer, x in zip(self.lateral, features, strict=True)]
        sizes = [x.shape[-1] for x in maps]
        if len({*sizes}) == 1:
            sizes = [4 * sizes[0], 2 * sizes[0], sizes[0], max(1, sizes[0] // 2)]
            maps = [_resized(x, size) for x, size in zip(maps, sizes, strict=True)]
        top = maps[-1]
        pooled = [
            _resized(layer(F.adaptive_avg_pool2d(top, pool)), sizes[-1])
            for layer, pool in zip(self.pooled, self.pools, strict=True)
        ]
        maps[-1] = self.top(torch.cat([top, *pooled], dim=1))
        for level in reversed(range(1, len(maps))):
            maps[level - 1] = maps[level - 1] + _resized(maps[level], sizes[level - 1])
        out: Tensor = self.classify(self.fuse(torch.cat([_resized(x, sizes[0]) for x in maps], dim=1)))
        return out


def _layer(inner: int, outer: int, kernel: int) -> nn.Module:
    """A convolution, its norm, and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(),
    )


def _resized(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def _backbone(name: str, image_size: int, levels: int) -> tuple[nn.Module, list[int]]:
    """A model of timm without what lies behind its last feature map, and the channels of the last ``levels``.

    Raises:
        UserError: timm has no such model, it has no (or too few) feature maps, or it takes no such images.
    """
    import timm

    try:
        options: dict[str, Any] = {"num_classes": 0}
        try:
            body: Any = timm.create_model(timm_name(name), img_size=image_size, **options)
        except TypeError as error:  # it takes images of any size
            if "img_size" not in str(error):
                raise
            body = timm.create_model(timm_name(name), **options)
        kept = body.prune_intermediate_layers(levels, prune_head=True)
    except (AttributeError, RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"--model: backbone: {name} gives no {levels} feature maps: {str(error).splitlines()[0][:160]}; choose a "
            "model of timm that has forward_intermediates, such as deit_s"
        ) from error
    return body, [body.feature_info[index]["num_chs"] for index in kept]
