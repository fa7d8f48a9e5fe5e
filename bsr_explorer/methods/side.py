"""Side networks: what trains stands beside the frozen blocks, and reads what leaves them.

A gradient that passes through a frozen block takes (6 + m)·B·N·D numbers of it. Where nothing within the backbone
trains, and nothing is added to it, none passes: autograd then keeps what the side network keeps, and of the backbone
the features that this reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import Adding
from bsr_explorer.methods.base import Method
from bsr_explorer.tape import Op, Parameter, Shape, Tape


@dataclass(frozen=True, eq=False, repr=False)
class SideNetwork(Adding):
    """A method whose parameters stand beside the blocks, within modules of its own; these and the head train."""

    reads_all_tokens: ClassVar[bool] = True

    module: ClassVar[str]
    """The name of its modules: one within each block that it reads, and perhaps one within ``BEFORE_HEAD``."""

    def is_own(self, parameter: str) -> bool:
        """Whether it stands in one of its modules."""
        return f".{self.module}." in parameter

    @property
    def at_inference(self) -> Method | None:
        """Itself: what stands beside the blocks cannot be merged into them."""
        return self

    def check_architecture(self, tape: Tape) -> None:
        """Refuse models whose blocks cannot be read.

        Raises:
            UserError: not timm's vision transformers.
        """
        if tape.architecture != "vit":
            raise UserError(
                f"--method: {self} reads what enters and leaves the blocks, and models of the architecture "
                f"{tape.architecture} show it nowhere; choose linear or last"
            )

    def with_side(self, tape: Tape, behind: dict[str, Writer]) -> Tape:
        """The tape with what was written behind operations, by what these write.

        Args:
            behind: of whose last operation the result is read instead of that of the one that they follow, where a
                writer says so.
        """
        ops, instead, parameters = list[Op](), dict[str, str](), dict(tape.parameters)
        for op in tape:
            ops.append(replace(op, reads=tuple(instead.get(name, name) for name in op.reads)))
            if (written := behind.get(op.writes)) is not None:
                ops += [
                    replace(new, reads=tuple(instead.get(name, name) for name in new.reads))
                    for new in written.ops
                ]
                parameters |= written.parameters
                if written.instead:
                    instead[op.writes] = written.ops[-1].writes
        return self.train_own(replace(tape, ops=tuple(ops), parameters=parameters))


@dataclass
class Writer:
    """Operations and parameters that stand beside a block, or behind all of them, in order.

    Attributes:
        block: 0-based; None: behind all.
        part: the side path's name.
        instead: whether what it writes last is read in the place of what it stands behind.
    """

    block: int | None
    part: str
    instead: bool = False
    ops: list[Op] = field(default_factory=list)
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def own(self, name: str, shape: Shape) -> str:
        """Bring a parameter; returns its name."""
        self.parameters[name] = Parameter(name, shape, self.block)
        return name

    def op(self, name: str, kind: str, reads: tuple[str, ...], params: dict[str, str], **attrs: Any) -> str:
        """Add an operation; returns the name of what it writes."""
        writes = f"{name}.{kind} {len(self.ops)}"
        self.ops.append(Op(name, kind, self.block, reads, writes, params, attrs, part=self.part))
        return writes

    def feature(self, name: str, x: str, tape: Tape) -> str:
        """What a linear layer is given of the backbone's tokens: these, or a copy where they do not lie one after the
        other."""
        return self.op(name, "by_token", (x,), {}) if lies_by_channel(tape) else x

    def linear(self, name: str, x: str, out: int, width: int, bias: bool = True) -> str:
        """Add a Linear layer of ``width`` inputs and ``out`` outputs."""
        params = {"weight": self.own(f"{name}.weight", (out, width))}
        if bias:
            params["bias"] = self.own(f"{name}.bias", (out,))
        return self.op(name, "linear", (x,), params)

    def norm(self, name: str, x: str, width: int) -> str:
        """Add a LayerNorm."""
        params = {part: self.own(f"{name}.{part}", (width,)) for part in ("weight", "bias")}
        return self.op(name, "layer_norm", (x,), params)


# --- where it stands ----------------------------------------------------------------------------------------


def lies_by_channel(tape: Tape) -> bool:
    """Whether the tokens that go through the blocks lie channel by channel, as a convolution makes them: neither is
    anything put before them, nor are they normalised. (A sum lies as its first summand does.)"""
    stem = takewhile(lambda op: op.block is None, tape.backbone)
    return not any(op.kind in ("prefix_tokens", "layer_norm") for op in stem)


def in_blocks(tape: Tape) -> Iterator[tuple[int, str, str]]:
    """Of each block (0-based) the tensor that enters it, and the one that leaves it."""
    for block in tape.blocks:
        ops = [op for op in tape.backbone if op.block == block]
        made = {op.writes for op in ops}
        yield block, next(name for name in ops[0].reads if name not in made), ops[-1].writes


def features(tape: Tape) -> str:
    """The tensor that the head reads, (B, D)."""
    return next(
        op.reads[0]
        for op in tape.backbone
        if op.kind == "linear" and tape.naming.is_head(op.params["weight"])
    )


def pooling(tape: Tape) -> Op:
    """The operation by which the model makes one token of all."""
    return next(op for op in tape.backbone if op.kind in ("select_token", "mean_tokens"))
