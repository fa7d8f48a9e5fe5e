"""LoSA-style: low-rank mixers beside the frozen blocks, over channels and over tokens.

Behind each block, with b what leaves it and y the correction so far (0 at first),

    y ← y + C(y + b),    y ← y + T(y + b),

where C is up·GELU(down·LN(·)) over channels, D → r → D, and T the same over tokens, N → r → N. What leaves the last
block is b + y. The up-projections start at zero, so that training begins with the linear probe's features. No gradient
passes through a block.

This is after the idea of LoSA, a parallel network of low-rank mixers that alternate between channels and tokens; its
equations and code were not at hand, so that it is ours in the details. The number of tokens is part of T's shape: what
was trained at one image size is for that size.

Saved: about 4·x a block, the input and output of two norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.adding import check_rank, whole_number
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.side import SideNetwork, Writer, in_blocks
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

MIXERS = "losa"
"""The name of its modules."""


@dataclass(frozen=True, eq=False, repr=False)
class Losa(SideNetwork):
    """The mixers, and the head, train.

    Attributes:
        r: rank of the mixers: to how many channels, and tokens, they go down.
    """

    r: int = 8

    name: ClassVar[str] = "losa"
    summary: ClassVar[str] = "mixers of low rank beside the blocks train, and the head (LoSA-style)"
    citation: ClassVar[str] = (
        "after Mercea et al., Time-, Memory- and Parameter-Efficient Visual Adaptation (LoSA), CVPR 2024 (arXiv "
        "2402.02887)"
    )
    module: ClassVar[str] = MIXERS

    def __post_init__(self) -> None:
        whole_number(self, "r")

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Ranks."""
        return (Numbers("r", (4, 8, 16, 32)),)

    def rewrite(self, tape: Tape) -> Tape:
        """Behind each block, a mixer of channels and one of tokens; behind the last, their sum is added.

        Raises:
            UserError: the blocks cannot be read.
        """
        self.check_architecture(tape)
        blocks = list(in_blocks(tape))
        behind, y = dict[str, Writer](), ""
        for block, entering, leaving in blocks:
            here, last = f"{tape.naming.path(block)}.{MIXERS}", block == blocks[-1][0]
            _, tokens, width = tape.tensors[entering].shape
            check_rank(self, "a block", self.r, width, f"{width} channels")
            side = behind[leaving] = Writer(block, MIXERS, instead=last)
            u = side.op(here, "add", (y, leaving), {}) if y else leaving
            x = side.norm(f"{here}.channels.norm", u, width)
            x = self._mixer(side, f"{here}.channels", x, width)
            y = side.op(here, "add", (y, x), {}) if y else x
            u = side.op(here, "add", (y, leaving), {})
            x = side.norm(f"{here}.tokens.norm", u, width)
            x = side.op(f"{here}.tokens", "swap", (x,), {})
            x = self._mixer(side, f"{here}.tokens", x, tokens)
            x = side.op(f"{here}.tokens", "swap", (x,), {})
            y = side.op(here, "add", (y, x), {})
            if last:
                side.op(here, "add", (leaving, y), {})
        return self.with_side(tape, behind)

    def _mixer(self, side: Writer, here: str, x: str, width: int) -> str:
        """Down, GELU and up, over the last dimension."""
        x = side.linear(f"{here}.down", x, self.r, width)
        x = side.op(f"{here}.act", "gelu", (x,), {})
        return side.linear(f"{here}.up", x, width, self.r)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.losa import add_mixers

        add_mixers(model, self.r)
        return self.train_own_in(model)
