"""A network of lite residual modules beside the blocks of a timm vision transformer."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from bsr_explorer.methods.adding import BEFORE_HEAD
from bsr_explorer.methods.applied.lite import LiteResidual, means, side_of
from bsr_explorer.methods.repnet import REPROGRAM
from bsr_explorer.naming import blocks_of


class Reprogramming(LiteResidual):
    """What stands behind one block."""

    def forward(self, b: Tensor, y: Tensor | None) -> Tensor:
        """What leaves the block (B, N, D), and what was made so far (B, n, D) → (B, n, D)."""
        # No name holds what lies between.
        if y is None:
            return self.made(means(b, self.side))
        return y + self.made(means(b, self.side) + y)


class Mean(nn.Module):
    """(B, n, D) → (B, D)."""

    def forward(self, y: Tensor) -> Tensor:
        """See above."""
        return y.mean(dim=1)


class _Carrying:
    """Hooks that carry what was made from block to block, and to the head."""

    def __init__(self, first: nn.Module) -> None:
        self._so_far: list[Tensor] = []
        self._first = first

    def behind(self, block: nn.Module, inputs: Any, out: Tensor) -> None:
        """Forward hook of a block."""
        module = cast(Reprogramming, block.get_submodule(REPROGRAM))
        if block is self._first:
            self._so_far.clear()  # of a pass that was broken off
        self._so_far.append(module(out, self._so_far.pop() if self._so_far else None))

    def join(self, module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        """Forward hook of the module before the head."""
        return cast(Tensor, out + module.get_submodule(REPROGRAM)(self._so_far.pop()))


def add_reprogramming(model: nn.Module, r: int, groups: int) -> None:
    """Let modules stand behind the blocks of a timm vision transformer, in place, with r times fewer channels
    within."""
    carrying, width, side = _Carrying(blocks_of(model)[0]), cast(Any, model).embed_dim, side_of(model)
    for block in blocks_of(model):
        block.add_module(REPROGRAM, Reprogramming(width, r, groups, side, next(block.parameters())))
        block.register_forward_hook(carrying.behind)
    join = model.get_submodule(BEFORE_HEAD)
    join.add_module(REPROGRAM, Mean())
    join.register_forward_hook(carrying.join)
