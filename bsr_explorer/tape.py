"""The symbolic tape of one training step: plain data that methods rewrite and costs are read off.

A tape lists the operations of a step in order. Each reads and writes tensors by name, and may use parameters, which
train or do not. Shapes are not stored but inferred along the tape, so that a rewrite that changes the number of tokens
in the middle changes everything above it. What autograd keeps of an operation, what it computes and what it allocates
is said by its kind (``operations``).

A method changes a tape in these ways:

- ``train_only``: which parameters train. What needs a gradient follows.
- ``insert_after``: another operation, such as one that writes fewer tokens.
- ``Op.stored``: how an operation stores a tensor that it keeps. Two operations that store one tensor alike hold it
  once; stored differently, it is held twice.
- ``Op.segment``: operations of one segment keep only what the segment is fed with, and run again in backward.
- ``Op.part``: operations beside the backbone, which read its tensors; ``Op.until``: a tensor is held until they have
  run. Where nothing trains below them, autograd keeps nothing of the backbone.

``models.lowering`` then says number formats, casts and kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from bsr_explorer.naming import TIMM, Naming
from bsr_explorer.operations.call import CALLED, Argument, Observer, bounded
from bsr_explorer.operations.kinds import inferred, kind_of, made_by
from bsr_explorer.operations.op import EVERYTHING, Op, Parameter, Part, Tensor
from bsr_explorer.operations.patches import halved
from bsr_explorer.operations.tokens import kept_tokens
from bsr_explorer.storages.storage import DENSE, AtOnce, Course, Dense, Shape, Storage

__all__ = [
    "CALLED",
    "DENSE",
    "EVERYTHING",
    "Argument",
    "AtOnce",
    "Course",
    "Dense",
    "Observer",
    "Op",
    "Parameter",
    "Part",
    "Shape",
    "Storage",
    "Tape",
    "Tensor",
    "halved",
    "inferred",
    "kept_tokens",
]


@dataclass(frozen=True)
class Tape:
    """A step: inputs, parameters and operations in order. Immutable; every rewrite gives a new tape.

    Attributes:
        prefix_tokens: tokens before the patches (class token, registers).
        class_token: whether the first of them is a class token.
        device: key of ``devices.DEVICES``: where the step runs, for what an operation takes may depend on it.
        buffers: what the model remembers from step to step beside its parameters, by name.
        architecture: key of ``models.architecture.ARCHITECTURES``.
        naming: how the architecture names its parameters.
        traced: the tensors of a traced model, as it was before a method changed it.
        held: of these, each by the name of its storage, what is written by the operation after which
            Python was seen to let go of it. Without, it follows from calls (``cost.frames``).
        lowered: whether it was traced in its number formats, so that ``models.lowering`` has nothing to say.
        drops: the token drops that it was traced with, by 0-based block (``models.base.Selection``).
    """

    inputs: tuple[Tensor, ...]
    parameters: Mapping[str, Parameter]
    ops: tuple[Op, ...]
    prefix_tokens: int = 0
    class_token: bool = False
    buffers: Mapping[str, Parameter] = field(default_factory=dict)
    device: str = "cpu"
    architecture: str = "vit"
    naming: Naming = TIMM
    traced: frozenset[str] = frozenset()
    held: Mapping[str, str] = field(default_factory=dict)
    lowered: bool = False
    drops: Mapping[int, Any] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, with the shapes that follow from the operations."""
        tensors = {tensor.name: tensor for tensor in self.inputs}
        for op in self.ops:
            for made in made_by(op, tensors, self.parameters):
                tensors[made.name] = made
        return tensors

    @property
    def blocks(self) -> list[int]:
        """The 0-based indices of the blocks, in order."""
        return sorted({op.block for op in self.ops if op.block is not None})

    @property
    def backbone(self) -> tuple[Op, ...]:
        """The operations of the model itself, without what runs beside it."""
        return tuple(op for op in self.ops if not op.part)

    def op(self, name: str, kind: str) -> Op:
        """The operation of this name and kind."""
        return next(op for op in self.ops if op.name == name and op.kind == kind)

    def train_only(self, trains: Callable[[Parameter], bool]) -> Tape:
        """The same step with exactly those parameters training."""
        parameters = {
            name: p if p.trains == (will := p.used and trains(p)) else replace(p, trains=will)
            for name, p in self.parameters.items()
        }
        made = replace(self, parameters=parameters)
        vars(made)["tensors"] = self.tensors  # no shape follows from what trains
        return made

    def insert_after(self, op: Op, new: Op, instead_of: str | None = None) -> Tape:
        """``new`` right after ``op``; later operations read what it writes ``instead_of`` that tensor."""
        position = self.ops.index(op) + 1
        later = tuple(_reading(old, instead_of, new.writes) for old in self.ops[position:])
        return replace(self, ops=(*self.ops[:position], new, *later))

    def needs_grad(self, live_inputs: bool = False) -> dict[str, bool]:
        """For each tensor, whether autograd computes a gradient for it: something below it trains.

        Args:
            live_inputs: for a tape that is a part of a step, whether something trains below the part.
        """
        needs = {tensor.name: live_inputs and tensor.role == "activation" for tensor in self.inputs}
        for op in self.ops:
            kind, reads = kind_of(op), [needs[name] for name in op.reads]
            parts = {
                part: self.parameters[name].trains if name in self.parameters else needs[name]
                for part, name in op.params.items()
            }
            live = kind.carries(op) and (any(reads) or any(parts.values()))
            if kind.passes is None:
                needs[op.writes] = live
                continue
            passes = kind.passes(op, reads, parts) if live else (False,) * (1 + len(op.others))
            needs.update(zip((op.writes, *op.others), passes, strict=True))
        return needs

    def bounded(self) -> Tape:
        """The same, where operations of which something cannot be counted are no longer refused: figures are bounds."""
        return replace(self, ops=tuple(map(bounded, self.ops)))

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)


def _reading(op: Op, old: str | None, new: str) -> Op:
    return replace(op, reads=tuple(new if name == old else name for name in op.reads))
