"""SHERL: features of all frozen blocks are put together before the last one.

What enters each block, f₀ … f_{L−1}, is projected to H = D/r channels and normalised, z_i = LN(P_i·f_i). The deepest,
g = z_{L−1}, guides: token by token, each other has the relevance a_i = ReLU(w·(z_i ⊙ g) + b) and the redundancy
ρ_i = Σ_k ReLU(cos(z_i, z_k)) among them, and the weight (a_i/ρ_i) / Σ_k (a_k/ρ_k). What enters the last block is

    U·ReLU(g + Σ_i weight_i·z_i) + tanh(γ/0.1)·f_{L−1},

where γ starts at 0, as the authors have it: training does not begin with the linear probe.

No gradient passes through the blocks below the last. Saved: x of each block for P_i, 2·H numbers a token of each, and
what passing a gradient takes of the last block, (6 + m)·x.

Beside the authors' code: a projection is followed by a norm, where some of theirs have a gated bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import whole_number
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.side import SideNetwork, Writer, in_blocks
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

AGGREGATION = "sherl"
"""The name of its modules."""


@dataclass(frozen=True, eq=False, repr=False)
class Sherl(SideNetwork):
    """The projections, what puts them together, and the head train.

    Attributes:
        r: how many times fewer channels than the backbone's are put together.
    """

    r: int = 8

    name: ClassVar[str] = "sherl"
    summary: ClassVar[str] = "features of all blocks, put together before the last one, train, and the head"
    citation: ClassVar[str] = (
        "Diao et al., SHERL: Synthesizing High Accuracy and Efficient Memory for Resource-Limited Transfer Learning, "
        "ECCV 2024 (arXiv 2407.07523)"
    )
    module: ClassVar[str] = AGGREGATION

    def __post_init__(self) -> None:
        whole_number(self, "r")

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many times fewer channels."""
        return (Numbers("r", (4, 8, 16)),)

    def check_width(self, width: int) -> None:
        """Refuse what does not divide a model's width.

        Raises:
            UserError: with what would be allowed.
        """
        if width % self.r:
            allowed = ", ".join(str(r) for r in range(1, width + 1) if width % r == 0)
            raise UserError(
                f"--method: {self}: a width of {width} is no multiple of r; r must be one of {allowed}"
            )

    def rewrite(self, tape: Tape) -> Tape:
        """Before each block, a projection of what enters it; before the last, the sum that enters it instead.

        Raises:
            UserError: r does not divide the width, or the blocks cannot be read.
        """
        self.check_architecture(tape)
        blocks = list(in_blocks(tape))
        width = tape.tensors[blocks[0][1]].shape[-1]
        self.check_width(width)
        behind, layers, narrow = dict[str, Writer](), list[str](), width // self.r
        last = f"{tape.naming.path(blocks[-1][0])}.{AGGREGATION}"
        for block, entering, _ in blocks:
            here = f"{tape.naming.path(block)}.{AGGREGATION}"
            side = behind[entering] = Writer(block, AGGREGATION, instead=here == last)
            if here == last:
                own = {
                    "weight": side.own(f"{here}.relevance", (narrow,)),
                    "bias": side.own(f"{here}.bias", (1,)),
                }
                gate = side.own(f"{here}.gate", (1,))
            x = side.linear(f"{here}.down", side.feature(here, entering, tape), narrow, width)
            layers.append(side.norm(f"{here}.norm", x, narrow))
            side.ops[-1] = replace(side.ops[-1], until=last)
        x = side.op(last, "aggregate", tuple(layers), own)
        x = side.linear(f"{last}.up", x, width, narrow)
        side.op(last, "add_opened", (entering, x), {"gate": gate})
        side.ops[-1] = replace(side.ops[-1], until=tape.naming.path(block))
        return self.with_side(tape, behind)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.sherl import add_aggregation

        add_aggregation(model, self.r)
        return self.train_own_in(model)
