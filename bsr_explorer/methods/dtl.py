"""DTL: a side sum of low rank, added to the backbone in its upper blocks.

h ← h + B·A·x at each block, where x enters the block, A is (r, D) and B (D, r); behind block ``first`` and each block
above, swish(h) = h·σ(100·h) is added to what leaves it. A starts as torch's linear layers do (Kaiming uniform, a = √5)
and B at zero, so that training begins with the linear probe's features.

Nothing is added below, so that the blocks up to ``first`` keep no graph. A gradient does pass through those above it,
and takes (6 + m) x of each.

Saved: x of each block for A's gradient (which a block above ``first`` keeps anyway, for its norm), r numbers a token
for B's, and h behind each block from ``first`` on.

``plus=True`` is the authors' DTL+: what swish makes of the patches passes through a depthwise convolution of 3 rows and
columns, one for all blocks, before it is added; what it makes of the tokens before them is added as it is. It keeps
what swish makes, x of each block from ``first`` on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import check_rank, whole_number
from bsr_explorer.methods.arguments import check_flags, quiet
from bsr_explorer.methods.axes import Axis, Choices, Flag, Numbers
from bsr_explorer.methods.side import SideNetwork, Writer, in_blocks
from bsr_explorer.naming import blocks_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

SUM = "dtl"
"""The name of its modules."""

FUSION = "fusion"
"""The name of the convolution's weight, within the first module that uses it."""

KERNEL = 3
"""Rows and columns of the convolution's kernel."""


@dataclass(frozen=True, eq=False, repr=False)
class Dtl(SideNetwork):
    """The matrices A and B of each block, the convolution if there is one, and the head train.

    Attributes:
        r: rank of what each block adds to the side sum.
        first: the first block (0-based) behind which the side sum is added to the backbone. None: half of the depth.
        plus: whether a convolution follows swish (DTL+).
    """

    r: int = 2
    first: int | None = quiet(None)
    plus: bool = quiet(False)

    name: ClassVar[str] = "dtl"
    summary: ClassVar[str] = "a side sum of low rank, added in the upper blocks, trains, and the head"
    citation: ClassVar[str] = (
        "Fu et al., DTL: Disentangled Transfer Learning for Visual Recognition, AAAI 2024 (arXiv 2312.07856)"
    )
    module: ClassVar[str] = SUM

    def __post_init__(self) -> None:
        whole_number(self, "r")
        if self.first is not None:
            whole_number(self, "first", least=0)
        check_flags(self, ("plus",))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Ranks; and quarters of the depth to begin at."""
        at = sorted({geometry.depth // 2, 3 * geometry.depth // 4})
        return Numbers("r", (2, 4, 8)), Choices("first", tuple(at))

    @classmethod
    def axes_if_named(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """With the convolution, too."""
        return (Flag("plus"),)

    def begins(self, depth: int) -> int:
        """The first block behind which the side sum is added.

        Raises:
            UserError: the model has no such block.
        """
        first = depth // 2 if self.first is None else self.first
        if first >= depth:
            raise UserError(
                f"--method: {self}: block {first} is out of range; the model has {depth} blocks, so first must be 0 to "
                f"{depth - 1} (0-based)"
            )
        return first

    def canonical(self, depth: int) -> Dtl:
        """Half of the depth is not said."""
        return replace(self, first=None) if self.begins(depth) == depth // 2 else self

    def rewrite(self, tape: Tape) -> Tape:
        """Beside each block, what it adds to the side sum; from ``first`` on, the sum is added to what leaves it.

        Raises:
            UserError: a rank or a block that the model does not have, or its blocks cannot be read.
        """
        self.check_architecture(tape)
        first, width = self.begins(len(tape.blocks)), tape.tensors[next(in_blocks(tape))[1]].shape[-1]
        check_rank(self, "a block", self.r, width, f"{width} channels")
        grid = isqrt(tape.tensors[next(in_blocks(tape))[1]].shape[1] - tape.prefix_tokens)
        behind, total, fusion = dict[str, Writer](), "", ""
        for block, entering, leaving in in_blocks(tape):
            here, adds = f"{tape.naming.path(block)}.{SUM}", block >= first
            side = behind[leaving] = Writer(block, SUM, instead=adds)
            if self.plus and adds:
                fusion = fusion or side.own(f"{here}.{FUSION}", (width, 1, KERNEL, KERNEL))
            x = side.linear(f"{here}.A", side.feature(here, entering, tape), self.r, width, bias=False)
            x = side.linear(f"{here}.B", x, width, self.r, bias=False)
            total = side.op(here, "add", (total, x), {}) if total else x
            if adds:
                x = side.op(here, "swish", (total,), {})
                if self.plus:
                    x = side.op(
                        here, "convolution", (x,), {"weight": fusion}, prefix=tape.prefix_tokens, side=grid
                    )
                side.op(here, "add", (leaving, x), {})
        return self.with_side(tape, behind)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model.

        Raises:
            UserError: a block that it does not have.
        """
        from bsr_explorer.methods.applied.dtl import add_side_sum

        add_side_sum(model, self.r, self.begins(len(blocks_of(model))), self.plus)
        return self.train_own_in(model)
