"""Lite residual modules, beside blocks of a timm vision transformer."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from bsr_explorer.methods.applied.convolution import Convolution
from bsr_explorer.methods.applied.patches import pool
from bsr_explorer.methods.lite import KERNEL
from bsr_explorer.tape import halved


def side_of(model: nn.Module) -> int:
    """Rows and columns of a model's patches."""
    rows, _ = cast(Any, model).patch_embed.grid_size
    return int(rows)


def means(x: Tensor, side: int) -> Tensor:
    """Of two by two patches of x (B, N, D), laid token by token, (B, n, D)."""
    # (Without a class token what goes through the blocks lies channel by channel.)
    return pool(x, side).contiguous()


class LiteResidual(nn.Module):
    """Tokens of a grid, (B, n, D) → (B, n, D); zero at first.

    Args:
        width: D.
        r: how many times fewer channels there are within.
        side: rows and columns of patches, of which the grid has half.
        like: a tensor of the device and number format that its parameters have.
    """

    def __init__(self, width: int, r: int, groups: int, side: int, like: Tensor) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.side = side
        self.conv = Convolution(width, width // r, KERNEL, groups, halved(side), like)
        self.norm, self.act = nn.LayerNorm(width // r, eps=1e-6, **how), nn.ReLU()
        self.up, self.last = (
            nn.Linear(width // r, width, bias=False, **how),
            nn.LayerNorm(width, eps=1e-6, **how),
        )
        nn.init.zeros_(self.last.weight)

    def made(self, u: Tensor) -> Tensor:
        """(B, n, D) → (B, n, D)."""
        return cast(Tensor, self.last(self.up(self.act(self.norm(self.conv(u))))))
