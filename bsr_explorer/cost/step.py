"""From a tape to the ledger of its step: what is held, and what is computed."""

from __future__ import annotations

from collections.abc import Iterator

from bsr_explorer.cost.rules import RULES, Context, Kept
from bsr_explorer.ledger import Row
from bsr_explorer.tape import DENSE, Op, Storage, Tape
from bsr_explorer.units import WIDTH

OPTIMIZERS: dict[str, tuple[int, int]] = {"sgd": (0, 0), "sgd_momentum": (1, 0), "adamw": (2, 4)}
"""State of each optimiser: copies of each trained parameter, and bytes beside them (AdamW's fp32 step
count of each parameter)."""


def contexts(tape: Tape, live_inputs: bool = False) -> Iterator[Context]:
    """Each operation with what its rule may ask.

    Args:
        live_inputs: whether the activations that the tape is fed with need a gradient: for a tape that
            is a part of a step, with something training below it.
    """
    tensors, needs = tape.tensors, tape.needs_grad(live_inputs)
    for op in tape:
        yield Context(
            op=op,
            reads=tuple(tensors[name] for name in op.reads),
            writes=tensors[op.writes],
            params={part: tape.parameters[name] for part, name in op.params.items()},
            needs=tuple(needs[name] for name in op.reads),
        )


def saved(tape: Tape, live_inputs: bool = False) -> Iterator[tuple[Op, str, int]]:
    """(operation, storage, bytes) of each unique storage kept for backward, under the first to keep it."""
    tensors = tape.tensors
    held: set[tuple[str, Storage]] = set()
    for context in contexts(tape, live_inputs):
        op = context.op
        for kept in RULES[op.kind].keeps(context):
            owner = kept
            if kept.tensor in tensors:
                storage = tensors[tensors[kept.tensor].storage]
                if storage.role == "input":
                    continue
                owner = Kept(storage.name, storage.shape, storage.dtype)
            how = op.stored.get(kept.tensor, DENSE)
            if (owner.tensor, how) not in held:
                held.add((owner.tensor, how))
                yield op, owner.tensor, how.bytes(owner.shape, owner.dtype)


def activation_rows(tape: Tape, live_inputs: bool = False) -> Iterator[Row]:
    """Rows of what is saved and what is computed, which add up over the parts of a step."""
    for op, _, size in saved(tape, live_inputs):
        yield Row(op.block, op.name, "saved", bytes=size)
    for context in contexts(tape, live_inputs):
        op, rule = context.op, RULES[context.op.kind]
        yield Row(op.block, op.name, "forward", flops=rule.forward(context))
        yield Row(op.block, op.name, "backward", flops=rule.backward(context))


def parameter_rows(tape: Tape, optimizer: str) -> Iterator[Row]:
    """Rows of the weights, their gradients and their optimiser state.

    Args:
        optimizer: key of ``OPTIMIZERS``.
    """
    copies, beside = OPTIMIZERS[optimizer]
    for p in tape.parameters.values():
        yield Row(p.block, p.name, "parameter", bytes=p.bytes)
        if p.trains:
            yield Row(p.block, p.name, "gradient", bytes=p.bytes)
            yield Row(p.block, p.name, "optimizer", bytes=copies * p.bytes + beside)


def input_rows(tape: Tape) -> Iterator[Row]:
    """Rows of the batch: images and labels."""
    for tensor in tape.inputs:
        if tensor.role == "input":
            yield Row(None, tensor.name, "input", bytes=tensor.numel * WIDTH[tensor.dtype])


def step_rows(tape: Tape, optimizer: str) -> Iterator[Row]:
    """All rows of a whole step."""
    yield from parameter_rows(tape, optimizer)
    yield from input_rows(tape)
    yield from activation_rows(tape)
