"""The symbolic tape of one training step: plain data that methods rewrite and costs are read off.

A tape lists a step's operations in order. Each reads and writes tensors by name, and may use
parameters, which train or do not. Shapes are not stored but inferred along the tape (one rule per kind
of operation, in ``SHAPES``), so that a rewrite that changes the number of tokens in the middle changes
everything above it. What autograd keeps of an operation, and its FLOPs, is physics and stands in
``cost.rules``.

How the families of methods are said here (the first three by methods that exist):

==========================  =============================================================================
freeze, train a subset      ``train_only``: a parameter trains or not; what is live follows by itself
drop, merge, fuse tokens    an operation that writes fewer tokens (``insert_after``)
low-rank weights, adapters  operations and parameters added or replaced
quantised, sparse, sampled  ``Op.stored``: how the operation stores a tensor that it keeps. Two operations
rows, low rank, sub-tokens  that store one tensor alike hold it once; stored differently, it is held twice
recomputation               ``Op.segment``: operations of one segment keep only what the segment is fed
                            with, and run again in backward
low precision               ``cast`` operations, of activations and of weights, as autocast inserts them
side network                operations that read backbone tensors; no trained parameter below them, so
                            autograd keeps nothing of the backbone
mixture of experts          a router's operations, and linears over the tokens that it sends to an expert
budgets that vary by step   one tape per step
==========================  =============================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

from bsr_explorer.naming import TIMM, Naming
from bsr_explorer.units import WIDTH

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value on the tape.

    Attributes:
        storage: name of the tensor whose bytes this one shows: itself, unless it is a view. A view that
            is kept keeps the whole storage.
    """

    name: str
    shape: Shape
    storage: str
    dtype: str = "fp32"
    role: Literal["input", "activation"] = "activation"

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of its elements."""
        return self.numel * WIDTH[self.dtype]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A weight of the model, under the name that it has in the model's state dict."""

    name: str
    shape: Shape
    block: int | None
    trains: bool = True
    dtype: str = "fp32"

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of the weight itself; its gradient takes as many."""
        return self.numel * WIDTH[self.dtype]


class Storage(Protocol):
    """How a tensor that is kept for backward is stored. Storages are compared by value."""

    @property
    def packs(self) -> bool:
        """Whether the operation that keeps the tensor packs it itself (``storages``), instead of leaving it to
        autograd and the hooks on what it saves."""
        ...

    def bytes(self, shape: Shape, dtype: str) -> int:
        """Bytes that a tensor of this shape and dtype takes."""
        ...

    def pack_scratch(self, shape: Shape, dtype: str, device: str) -> int:
        """Bytes that storing it takes at most, beside what it makes, and gives back."""
        ...

    def unpack_scratch(self, shape: Shape, dtype: str, device: str) -> int:
        """Bytes that bringing it back takes at most, beside the tensor that it makes, and gives back."""
        ...

    def passing(self, shape: Shape, dtype: str) -> int:
        """Bytes, beside, that are here only while the operation that packs it runs, forward and backward."""
        ...


class AtOnce:
    """A storage that needs nothing on the way, where it does not say otherwise."""

    packs: ClassVar[bool] = False

    def pack_scratch(self, shape: Shape, dtype: str, device: str) -> int:
        """None."""
        return 0

    def unpack_scratch(self, shape: Shape, dtype: str, device: str) -> int:
        """None."""
        return 0

    def passing(self, shape: Shape, dtype: str) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class Dense(AtOnce):
    """Stored as it is."""

    def bytes(self, shape: Shape, dtype: str) -> int:
        """Every element at its own width."""
        return math.prod(shape) * WIDTH[dtype]


DENSE = Dense()

EVERYTHING = "*"
"""In ``Op.stored``: whatever the operation keeps."""


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: the module path that runs it (``blocks.3.mlp.fc1``), so that a measurement can be compared
            operation by operation.
        kind: key of ``SHAPES`` and of ``cost.rules.RULES``.
        block: 0-based block index, or None.
        reads: tensors, in the order that the kind's rule expects.
        writes: the tensor that it makes.
        params: by the part that they play (``{"weight": "head.weight"}``), parameters, or tensors that
            were made of parameters (a copy in another number format).
        attrs: numbers that the kind's rules need (heads, kept tokens, …). What is ``detached`` runs without a graph
            whatever it reads.
        stored: how a kept tensor is stored, by name, or ``EVERYTHING``; ``DENSE`` where nothing is said.
        segment: the recomputed segment that it belongs to, or nothing.
    """

    name: str
    kind: str
    block: int | None
    reads: tuple[str, ...]
    writes: str
    params: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    stored: Mapping[str, Storage] = field(default_factory=dict)
    segment: str = ""

    def stores(self, tensor: str) -> Storage:
        """How it stores a tensor that it keeps."""
        return self.stored.get(tensor) or self.stored.get(EVERYTHING, DENSE)

    @property
    def packs(self) -> bool:
        """Whether it runs as a function that packs what it keeps."""
        return any(how.packs for how in self.stored.values())


@dataclass(frozen=True)
class Tape:
    """A step: inputs, parameters and operations in order. Immutable; every rewrite gives a new tape.

    Attributes:
        prefix_tokens: tokens before the patches (class token, registers).
        class_token: whether the first of them is a class token.
        device: where the step runs, for what an operation takes on the way may depend on it.
        buffers: what the model remembers from step to step beside its parameters, by name.
        architecture: key of ``models.architecture.ARCHITECTURES``.
        naming: how the architecture names its parameters.
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

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, with the shapes that follow from the operations."""
        tensors = {tensor.name: tensor for tensor in self.inputs}
        for op in self.ops:
            tensors[op.writes] = inferred(op, tensors, self.parameters)
        return tensors

    @property
    def blocks(self) -> list[int]:
        """The 0-based indices of the blocks, in order."""
        return sorted({op.block for op in self.ops if op.block is not None})

    def op(self, name: str, kind: str) -> Op:
        """The operation of this name and kind."""
        return next(op for op in self.ops if op.name == name and op.kind == kind)

    def train_only(self, trains: Callable[[Parameter], bool]) -> Tape:
        """The same step with exactly those parameters training."""
        parameters = {name: replace(p, trains=trains(p)) for name, p in self.parameters.items()}
        return replace(self, parameters=parameters)

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
            trained = any(
                self.parameters[name].trains if name in self.parameters else needs[name]
                for name in op.params.values()
            )
            needs[op.writes] = not op.attrs.get("detached") and (
                trained or any(needs[name] for name in op.reads)
            )
        return needs

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)


def inferred(op: Op, tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter]) -> Tensor:
    """What an operation writes, given what it reads."""
    reads = [tensors[name] for name in op.reads]
    params = {part: parameters.get(name) or tensors[name] for part, name in op.params.items()}
    shape, storage = SHAPES[op.kind](op, reads, params)
    dtype = op.attrs.get("dtype") or _widest(*reads, *params.values())
    return Tensor(op.writes, shape, storage or op.writes, dtype)


def _widest(*operands: Part) -> str:
    """The number format of a result: the widest of the floating-point operands'."""
    floats = [operand.dtype for operand in operands if not operand.dtype.startswith("int")]
    return max(floats, key=WIDTH.__getitem__, default="fp32")


def _reading(op: Op, old: str | None, new: str) -> Op:
    return replace(op, reads=tuple(new if name == old else name for name in op.reads))


# --- the shape of what each kind of operation writes, and the storage that it views, if it is a view ----

Part = Parameter | Tensor
"""What plays a part in an operation: a parameter, or a tensor that was made of one."""

ShapeRule = Callable[[Op, list[Tensor], dict[str, Part]], tuple[Shape, str | None]]


def _patch_embed(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    batch, _, height, width = reads[0].shape
    out, _, patch, _ = params["weight"].shape
    return (batch, (height // patch) * (width // patch), out), None


def _prefix(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    batch, tokens, width = reads[0].shape
    return (batch, tokens + sum(p.shape[1] for p in params.values()), width), None


def _linear(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    return (*reads[0].shape[:-1], params["weight"].shape[0]), None


def _attention(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    batch, tokens, width3 = reads[0].shape
    return (batch, tokens, width3 // 3), None


def _class_attention(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    batch, tokens, _ = reads[0].shape
    return (batch, tokens - op.attrs["prefix"]), None


def _drop_tokens(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    batch, tokens, width = reads[0].shape
    prefix = op.attrs["prefix"]
    kept = kept_tokens(tokens - prefix, op.attrs["keep"])
    return (batch, prefix + kept + op.attrs["fuse"], width), None


def _half(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    return (*reads[0].shape[:-1], reads[0].shape[-1] // 2), None


def _select_token(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    return (reads[0].shape[0], reads[0].shape[2]), reads[0].storage


def _mean_tokens(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    return (reads[0].shape[0], reads[0].shape[2]), None


def _scalar(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    return (), None


def _of_parameter(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    return params["value"].shape, None


def _same(op: Op, reads: list[Tensor], params: dict[str, Part]) -> tuple[Shape, str | None]:
    return reads[0].shape, None


SHAPES: dict[str, ShapeRule] = {
    "patch_embed": _patch_embed,
    "prefix_tokens": _prefix,
    "add_parameter": _same,
    "layer_norm": _same,
    "linear": _linear,
    "attention": _attention,
    "class_attention": _class_attention,
    "drop_tokens": _drop_tokens,
    "gelu": _same,
    "silu_half": _half,
    "gate_half": _same,
    "scale": _same,
    "add": _same,
    "select_token": _select_token,
    "mean_tokens": _mean_tokens,
    "cross_entropy": _scalar,
    "cast": _same,
    "cast_parameter": _of_parameter,
}


def kept_tokens(patches: int, keep: float) -> int:
    """How many of ``patches`` tokens a keep rate keeps: ``ceil(keep · patches)`` (EViT's and BSR's rule).

    The product is rounded to 9 decimals first, so that 0.07 of 100 tokens is 7 and not, for the sake of a
    binary fraction, 8. However low the rate, one token stays.
    """
    return max(1, math.ceil(round(keep * patches, 9)))
