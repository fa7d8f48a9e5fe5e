"""LST: a ladder of small transformer blocks beside the frozen ones.

Beside each block stands one of the same form, r times narrower. It reads μ·h + (1 − μ)·d(x): h is what leaves the
small block below, x what leaves the frozen block, d a projection to D/r channels, and μ = σ(α/0.1) a learned gate,
which starts at one half. (Below the first, h is a projection of what enters the first frozen block.) What leaves the
last is pooled as the model pools, normalised, projected to D channels, and added to what the head reads.

As in the authors' code, which this follows: projections with biases, the gate, a norm and a projection behind the
last small block, the sum with the backbone's own features. Differences from it:

* the last projection starts at zero, so that training begins with the linear probe's features;
* small blocks start as timm's do, at random. The authors cut them out of the backbone's weights by their Fisher
  information;
* every block has a small one. (The authors leave some out; of T5-base, 3 of 12 a side.)
* of a token's norm and projection only the pooled one is computed, for no other is read; where a model pools by the
  mean, the mean is taken first;
* LayerScale is left out of small blocks.

Saved: one x a block for d's weight, and of a small block 1/r of what a trained block keeps, and a gate's difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import BEFORE_HEAD, whole_number
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.side import SideNetwork, Writer, features, in_blocks, pooling
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

LADDER = "ladder"
"""The name of its modules."""


@dataclass(frozen=True, eq=False, repr=False)
class Lst(SideNetwork):
    """The ladder, and the head, train.

    Attributes:
        r: how many times narrower the small blocks are.
    """

    r: int = 8

    name: ClassVar[str] = "lst"
    summary: ClassVar[str] = "small blocks beside the frozen ones train, and the head"
    citation: ClassVar[str] = (
        "Sung et al., LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning, NeurIPS 2022 "
        "(arXiv 2206.06522)"
    )
    module: ClassVar[str] = LADDER

    def __post_init__(self) -> None:
        whole_number(self, "r")

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many times narrower."""
        return (Numbers("r", (4, 8, 16)),)

    def check_width(self, head: int, hidden: int) -> None:
        """Refuse what does not divide a model's sizes.

        Args:
            head: channels of a head.
            hidden: inputs of the second MLP layer.

        Raises:
            UserError: with what would be allowed.
        """
        common = gcd(head, hidden)
        if common % self.r:
            allowed = ", ".join(str(r) for r in range(1, common + 1) if common % r == 0)
            raise UserError(
                f"--method: {self}: heads of {head} channels and a hidden layer of {hidden} are not {self.r} times "
                f"narrower in whole numbers; r must be one of {allowed}"
            )

    def rewrite(self, tape: Tape) -> Tape:
        """Beside each block, a projection of its output, a gate and a small block; behind the last, the way up.

        Raises:
            UserError: r does not divide the model's sizes, or its blocks cannot be read.
        """
        self.check_architecture(tape)
        attention = next(op for op in tape if op.kind == "attention")
        out = next(op for op in reversed(tape.ops) if op.kind == "linear" and op.block == attention.block)
        width, hidden = tape.parameters[out.params["weight"]].shape
        self.check_width(width // attention.attrs["heads"], hidden)
        behind, state, narrow = dict[str, Writer](), "", width // self.r
        for block, entering, leaving in in_blocks(tape):
            here = f"{tape.naming.path(block)}.{LADDER}"
            side = behind[leaving] = Writer(block, LADDER)
            gate = side.own(f"{here}.gate", (1,))
            if not state:
                state = side.linear(f"{here}.first", side.feature(here, entering, tape), narrow, width)
            x = side.linear(f"{here}.down", side.feature(here, leaving, tape), narrow, width)
            mixed = side.op(here, "mix", (state, x), {"gate": gate})
            state = self._block(tape, side, entering, f"{here}.block", mixed)
        joined, pool = features(tape), pooling(tape)
        top = behind[joined] = Writer(None, LADDER, instead=True)
        x = top.op(f"{BEFORE_HEAD}.{LADDER}", pool.kind, (state,), {}, **pool.attrs)
        x = top.norm(f"{BEFORE_HEAD}.{LADDER}.norm", x, narrow)
        x = top.linear(f"{BEFORE_HEAD}.{LADDER}.up", x, width, narrow)
        top.op(BEFORE_HEAD, "add", (joined, x), {})
        return self.with_side(tape, behind)

    def _block(self, tape: Tape, side: Writer, entering: str, here: str, x: str) -> str:
        """The small block at a path: the operations of the frozen one, with r times narrower parameters.

        Args:
            entering: what enters the frozen block.
            x: what enters the small one.
        """
        block, named = side.block, {entering: x}
        assert block is not None
        path = tape.naming.path(block)
        for op in tape.backbone:
            if op.block != block:
                continue
            if op.kind == "scale":
                named[op.writes] = named[op.reads[0]]
                continue
            params = {}
            for part, name in op.params.items():
                shape = tuple(size // self.r for size in tape.parameters[name].shape)
                params[part] = side.own(name.replace(path, here, 1), shape)
            reads = tuple(named[name] for name in op.reads)
            new = replace(op, name=op.name.replace(path, here, 1), reads=reads, params=params, part=side.part)
            side.ops.append(replace(new, writes=op.writes.replace(path, here, 1)))
            named[op.writes] = side.ops[-1].writes
        return side.ops[-1].writes

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.lst import add_ladder

        add_ladder(model, self.r)
        return self.train_own_in(model)
