"""Lite residual modules that are added to what leaves the blocks of a timm vision transformer."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from bsr_explorer.methods.applied.lite import LiteResidual, means, side_of
from bsr_explorer.methods.applied.patches import spread
from bsr_explorer.methods.tinytl import LITE
from bsr_explorer.naming import blocks_of


class Beside(LiteResidual):
    """What stands beside one block.

    Args:
        prefix: tokens before the patches.
    """

    def __init__(self, width: int, r: int, groups: int, side: int, prefix: int, like: Tensor) -> None:
        super().__init__(width, r, groups, side, like)
        self.prefix = prefix

    def forward(self, x: Tensor, leaving: Tensor) -> Tensor:
        """What enters the block and what leaves it, (B, N, D) both → what leaves it now."""
        # No name holds what lies between.
        return leaving + spread(self.made(means(x, self.side)), self.side, self.prefix)


def _beside(block: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
    """Forward hook of a block."""
    return cast(Tensor, block.get_submodule(LITE)(inputs[0], out))


def add_lite_residuals(model: nn.Module, r: int, groups: int) -> None:
    """Let modules stand beside the blocks of a timm vision transformer, in place, with r times fewer channels
    within."""
    vit, side = cast(Any, model), side_of(model)
    for block in blocks_of(model):
        like = next(block.parameters())
        block.add_module(LITE, Beside(vit.embed_dim, r, groups, side, vit.num_prefix_tokens, like))
        block.register_forward_hook(_beside)
