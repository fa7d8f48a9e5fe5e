"""A first estimate of the peak: what is alive along forward and backward, operation by operation.

Exact are the tensors of the tape and how long they live; estimated is what kernels take for themselves
and when gradients replace activations. It is labelled an estimate wherever it is shown.
"""

from __future__ import annotations

from bsr_explorer.cost.step import contexts, parameter_rows, saved, step_rows
from bsr_explorer.ledger import Ledger, ledger
from bsr_explorer.tape import Tape, Tensor
from bsr_explorer.units import WIDTH


def step_ledger(tape: Tape, optimizer: str) -> Ledger:
    """The ledger of a whole step with its estimated peak."""
    return ledger(step_rows(tape, optimizer), estimate_peak(tape, optimizer), "estimate")


def estimate_peak(tape: Tape, optimizer: str) -> int:
    """Bytes alive at the fullest moment of a steady step (optimiser state exists, gradients do not yet)."""
    standing = sum(
        row.bytes for row in parameter_rows(tape, optimizer) if row.kind in ("parameter", "optimizer")
    )
    standing += sum(_bytes(tensor) for tensor in tape.inputs if tensor.role == "input")
    return standing + max(_forward_peak(tape), _backward_peak(tape))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel * WIDTH[tensor.dtype]


def _forward_peak(tape: Tape) -> int:
    """Storages alive at once during forward: those kept for backward, and those still to be read."""
    tensors = tape.tensors
    last_read = {tensors[name].storage: i for i, op in enumerate(tape) for name in op.reads}
    kept_by: dict[int, dict[str, int]] = {}
    for op, storage, size in saved(tape):
        kept_by.setdefault(id(op), {})[storage] = size
    for_backward = {storage for kept in kept_by.values() for storage in kept}
    alive: dict[str, int] = {}
    peak = 0
    for i, op in enumerate(tape):
        alive |= kept_by.get(id(op), {})
        if tensors[op.writes].storage == op.writes:
            alive.setdefault(op.writes, _bytes(tensors[op.writes]))
        peak = max(peak, sum(alive.values()))
        for storage in [s for s in alive if last_read.get(s, -1) <= i and s not in for_backward]:
            del alive[storage]
    return peak


def _backward_peak(tape: Tape) -> int:
    """Saved tensors not yet used, gradients of parameters so far, and the gradients passing through."""
    kept: dict[tuple[str, str], int] = {}
    for op, _, size in saved(tape):
        kept[op.name, op.kind] = kept.get((op.name, op.kind), 0) + size
    held, gradients, peak = sum(kept.values()), 0, sum(kept.values())
    for context in reversed(list(contexts(tape))):
        if not context.live:
            continue
        op = context.op
        passing = _bytes(context.writes) + sum(
            _bytes(x) for x, needs in zip(context.reads, context.needs, strict=True) if needs
        )
        gradients += sum(p.bytes for p in context.params.values() if p.trains)
        peak = max(peak, held + gradients + passing)
        held -= kept.get((op.name, op.kind), 0)
    return max(peak, held + gradients)
