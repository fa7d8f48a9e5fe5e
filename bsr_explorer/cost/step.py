"""From a tape to the ledger of its step: what is held, and what is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from bsr_explorer.cost.optimizers import OPTIMIZERS
from bsr_explorer.devices import device_of
from bsr_explorer.ledger import Kind, Row
from bsr_explorer.operations.kinds import kind_of, rule_of
from bsr_explorer.operations.rule import Context, Kept
from bsr_explorer.tape import DENSE, EVERYTHING, Course, Op, Storage, Tape


def contexts(tape: Tape, live_inputs: bool = False) -> Iterator[Context]:
    """Each operation with what its rule may ask.

    Args:
        live_inputs: whether the activations that the tape is fed with need a gradient: for a tape that
            is a part of a step, with something training below it.
    """
    tensors, needs, device = tape.tensors, tape.needs_grad(live_inputs), device_of(tape.device)
    reaching = _reaching(tape)
    for op in tape:
        carries = kind_of(op).carries(op) and op.writes in reaching
        yield Context(
            op=op,
            reads=tuple(tensors[name] for name in op.reads),
            writes=tensors[op.writes],
            params={part: tape.parameters.get(name) or tensors[name] for part, name in op.params.items()},
            needs=tuple(carries and needs[name] for name in op.reads),
            part_needs={
                part: carries and (tape.parameters[name].trains if name in tape.parameters else needs[name])
                for part, name in op.params.items()
            },
            device=device,
            others=tuple(tensors[name] for name in op.others),
        )


def _reaching(tape: Tape) -> set[str]:
    """What the operations write of which the loss is made, by the first tensor of each. What a model makes beside it is
    let go, with all that autograd kept for it. (Tapes that were not traced have nothing beside.)"""
    if not tape.held:
        return {op.writes for op in tape}
    wanted, found = {tape.ops[-1].writes}, set[str]()
    for op in reversed(tape.ops):
        if wanted & {op.writes, *op.others}:
            found.add(op.writes)
            wanted |= {*op.reads, *op.params.values()}
    return found


# --- what is kept ---------------------------------------------------------------------------------------


class Keep(NamedTuple):
    """A storage that an operation keeps: under which name, how, the bytes that this takes, and the bytes of
    what is brought back of it where it is not stored as it is. What is packed takes more while it is, or while the
    operation runs (by hooks: while it is packed or brought back)."""

    name: str
    how: Storage
    bytes: int
    dense_bytes: int
    pieces: tuple[int, ...] = ()
    packing: Course = ()
    unpacking: Course = ()
    passing: int = 0
    pack_flops: int = 0
    by_hooks: bool = False


def kept_by_op(tape: Tape, all_contexts: Sequence[Context]) -> list[list[Keep]]:
    """For each operation the storages that it keeps when it is recorded, each once; no parameters, and
    nothing of the batch."""
    return [_keeps(tape, c) if _recorded(c) else [] for c in all_contexts]


def _keeps(tape: Tape, c: Context) -> list[Keep]:
    tensors, device = tape.tensors, device_of(tape.device)
    found: dict[tuple[str, Storage], Keep] = {}
    for kept in rule_of(c.op).keeps(c):
        if kept.tensor in tape.parameters:
            continue
        owner = kept
        if kept.tensor in tensors:
            shown = tensors[kept.tensor].storage
            if shown not in tensors:
                continue  # a view of a parameter, or of a buffer
            storage = tensors[shown]
            if storage.role == "input":
                continue
            owner = Kept(storage.name, storage.shape, storage.dtype, kept.needed)
        how = c.op.stores(kept.stored_as or kept.tensor)
        if how.packs and kept.as_made:
            owner = replace(owner, shape=kept.shape)
            how = how.fitting(owner.shape)
        elif how.packs and prod(owner.shape) == prod(kept.shape):
            owner = replace(owner, shape=kept.shape)  # it is packed as it is read
        if c.op.segment and kept.tensor not in c.op.stored:
            how = DENSE  # what is taken elsewhere is what the segment is fed with
        dense = DENSE.bytes(owner.needed or owner.shape, owner.dtype)
        if how is DENSE and not owner.needed:
            found[owner.tensor, how] = Keep(owner.tensor, how, dense, dense)
            continue
        found[owner.tensor, how] = Keep(
            owner.tensor,
            how,
            how.bytes(owner.shape, owner.dtype),
            dense,
            how.pieces(owner.shape, owner.dtype),
            how.pack_course(owner.shape, owner.dtype, device),
            how.unpack_course(owner.shape, owner.dtype, device),
            how.passing(owner.shape, owner.dtype),
            how.pack_flops(owner.shape),
            kept.as_made,
        )
    return list(found.values())


def _recorded(c: Context) -> bool:
    """Whether the operation may keep something: rules say themselves what, given what needs a gradient."""
    return c.live


@dataclass(frozen=True)
class Recomputed:
    """A segment that is run again in backward.

    Attributes:
        inputs: storages that it is fed with, and keeps.
        how: how it stores them.
        indices: operations that run again, in order; the last is the last to keep something.
        computes_last: whether that one has to be computed before all is kept.
        first: its first operation.
        last_unwound: the one that backward unwinds last.
    """

    name: str
    block: int | None
    inputs: tuple[str, ...]
    how: Storage
    indices: tuple[int, ...]
    computes_last: bool
    first: int
    last_unwound: int


def recomputed(tape: Tape, all_contexts: Sequence[Context]) -> dict[str, Recomputed]:
    """The segments of which autograd would keep something, by name.

    Recomputation ends as soon as all that backward needs is there again (torch's early stop), so that the
    operations after the last one that keeps something do not run twice.
    """
    members: dict[str, list[int]] = {}
    for index, c in enumerate(all_contexts):
        if c.op.segment:
            members.setdefault(c.op.segment, []).append(index)
    found = {}
    for name, indices in members.items():
        keeping = [i for i in indices if rule_of(all_contexts[i].op).keeps(all_contexts[i])]
        if not keeping:
            continue
        made = {t.name for i in indices for t in (all_contexts[i].writes, *all_contexts[i].others)}
        read = [tensor for i in indices for tensor in all_contexts[i].reads if tensor.name not in made]
        inputs = dict.fromkeys(
            tensor.storage
            for tensor in read
            if tensor.storage in tape.tensors  # else it is a part of a parameter, or of a buffer
            and tape.tensors[tensor.storage].role == "activation"
        )
        last = all_contexts[keeping[-1]]
        found[name] = Recomputed(
            name,
            last.op.block,
            tuple(inputs),
            all_contexts[indices[0]].op.stores(EVERYTHING),
            tuple(i for i in indices if i <= keeping[-1]),
            rule_of(last.op).computes(last),
            indices[0],
            next(i for i in indices if all_contexts[i].live),
        )
    return found


@dataclass(frozen=True)
class Recorded:
    """A tape as autograd records it: made once, read by what is saved and by who holds what when.

    Attributes:
        keeps: see ``kept_by_op``.
        again: see ``recomputed``.
    """

    tape: Tape
    contexts: list[Context]
    keeps: list[list[Keep]]
    again: dict[str, Recomputed]

    @classmethod
    def of(cls, tape: Tape, live_inputs: bool = False) -> Recorded:
        """Record a tape; for ``live_inputs`` see ``contexts``."""
        found = list(contexts(tape, live_inputs))
        return cls(tape, found, kept_by_op(tape, found), recomputed(tape, found))

    def saved(self) -> Iterator[tuple[int | None, str, str, int]]:
        """(block, operation, storage, bytes) of each unique storage kept for backward at the end of forward,
        under the first to keep it (a recomputed segment keeps what it is fed with; one of which nothing is kept has let
        go of it in the end, and counts as the first to keep it where another still does)."""
        begins = {segment.first: segment for segment in self.again.values()}
        held: set[tuple[str, Storage]] = set()
        fed: dict[str, tuple[int | None, str]] = {}
        for index, (c, keeps) in enumerate(zip(self.contexts, self.keeps, strict=True)):
            if index in begins:
                segment = begins[index]
                for name in segment.inputs:
                    if (name, segment.how) not in held:
                        held.add((name, segment.how))
                        tensor = self.tape.tensors[name]
                        size = segment.how.bytes(tensor.shape, tensor.dtype)
                        yield segment.block, segment.name, name, size
            if c.op.segment in self.again:
                continue
            if c.op.segment and c.op.stores(EVERYTHING) is DENSE:
                for tensor in c.reads:
                    fed.setdefault(tensor.storage, (c.op.block, c.op.segment))
            for keep in keeps:
                if (keep.name, keep.how) not in held:
                    held.add((keep.name, keep.how))
                    block, name = fed.get(keep.name, (c.op.block, c.op.name))
                    yield block, name, keep.name, keep.bytes

    def computed(self) -> Iterator[tuple[Op, Kind, int]]:
        """(operation, kind, FLOPs), where the kind is ``forward``, ``backward`` or ``recompute``."""
        for c, keeps in zip(self.contexts, self.keeps, strict=True):
            rule = rule_of(c.op)
            yield c.op, "forward", rule.forward(c)
            yield c.op, "backward", rule.backward(c)
            if packing := sum(
                keep.pack_flops for keep in keeps
            ):  # of what runs again, nothing in the first run
                yield c.op, "recompute" if c.op.segment in self.again else "forward", packing
        for segment in self.again.values():
            for i in segment.indices if segment.computes_last else segment.indices[:-1]:
                again = self.contexts[i]
                yield again.op, "recompute", rule_of(again.op).forward(again)


def saved(tape: Tape, live_inputs: bool = False) -> Iterator[tuple[int | None, str, str, int]]:
    """See ``Recorded.saved``."""
    return Recorded.of(tape, live_inputs).saved()


# --- rows -----------------------------------------------------------------------------------------------


def saved_rows(recorded: Recorded) -> Iterator[Row]:
    """Rows of what is saved."""
    for block, operation, _, size in recorded.saved():
        yield Row(block, operation, "saved", bytes=size)


def activation_rows(recorded: Recorded) -> Iterator[Row]:
    """Rows of what is saved and what is computed, which add up over the parts of a step."""
    yield from saved_rows(recorded)
    for op, kind, flops in recorded.computed():
        yield Row(op.block, op.name, kind, flops=flops)


def parameter_rows(tape: Tape, optimizer: str) -> Iterator[Row]:
    """Rows of the weights (and of the model's buffers), their gradients and their optimiser state.

    Args:
        optimizer: key of ``OPTIMIZERS``.
    """
    for p in tape.parameters.values():
        yield Row(p.block, p.name, "parameter", bytes=p.bytes)
        if p.trains:
            yield Row(p.block, p.name, "gradient", bytes=p.bytes)
        if p.has_state:
            yield Row(p.block, p.name, "optimizer", bytes=OPTIMIZERS[optimizer].state_bytes(p))
    for buffer in tape.buffers.values():
        yield Row(buffer.block, buffer.name, "parameter", bytes=buffer.bytes)


def input_rows(tape: Tape) -> Iterator[Row]:
    """Rows of the batch: images and labels."""
    for tensor in tape.inputs:
        if tensor.role == "input":
            yield Row(None, tensor.name, "input", bytes=tensor.bytes)


def step_rows(tape: Tape, optimizer: str) -> Iterator[Row]:
    """All rows of a whole step."""
    yield from parameter_rows(tape, optimizer)
    yield from input_rows(tape)
    yield from activation_rows(Recorded.of(tape))
