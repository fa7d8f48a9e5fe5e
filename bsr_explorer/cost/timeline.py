"""What a steady training step allocates and frees, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bsr_explorer.cost.gradients import Gradients
from bsr_explorer.cost.holders import Memory, Moment
from bsr_explorer.cost.optimizers import OPTIMIZERS, groups
from bsr_explorer.cost.passes import Pass
from bsr_explorer.cost.setup import Setup
from bsr_explorer.cost.step import Recorded, input_rows, parameter_rows
from bsr_explorer.ledger import Kind, Row
from bsr_explorer.tape import Parameter, Tape
from bsr_explorer.units import WIDTH


def standing_rows(tape: Tape, setup: Setup) -> Iterator[Row]:
    """Rows of parameters, gradients, optimiser state and the batch."""
    yield from parameter_rows(tape, setup.optimizer)
    for row in input_rows(tape):
        yield Row(row.block, row.operation, row.kind, bytes=row.bytes * setup.micro_batches)
    shared = OPTIMIZERS[setup.optimizer].shared_bytes(_with_state(tape))
    scaler = 2 * WIDTH["fp32"] if setup.scaler else 0
    yield Row(None, "shared", "optimizer", bytes=shared + scaler)


def standing(tape: Tape, setup: Setup) -> Iterator[tuple[str, Kind, int]]:
    """The same by tensors: name, kind and bytes of each. (What lies elsewhere than on the device is left out.)"""
    for row in standing_rows(tape, setup):
        if row.kind != "optimizer":
            noun = f"{row.kind} of " if row.kind == "gradient" else ""
            yield f"{noun}{row.operation}", row.kind, row.bytes
    stateful = _with_state(tape)
    for p in stateful:
        for number, size in enumerate(_state(p, setup)):
            yield f"state {number} of {p.name}", "optimizer", size
    for name, size in {**_shared(stateful, setup), **_of_the_scaler(setup)}.items():
        yield name, "optimizer", size


def _with_state(tape: Tape) -> list[Parameter]:
    return [p for p in tape.parameters.values() if p.has_state]


def _state(p: Parameter, setup: Setup) -> list[int]:
    return OPTIMIZERS[setup.optimizer].state_sizes(p, setup.runs_as, setup.on.number)


def _shared(trained: Sequence[Parameter], setup: Setup) -> dict[str, int]:
    """Bytes of each of two equal tensors that an optimiser keeps for all parameters together."""
    size = OPTIMIZERS[setup.optimizer].shared_bytes(trained)
    return dict.fromkeys(("first map of the optimiser", "second map") if size else (), size // 2)


def _of_the_scaler(setup: Setup) -> dict[str, int]:
    """What a gradient scaler keeps from step to step."""
    return dict.fromkeys(("scale", "steps since it grew"), WIDTH["fp32"]) if setup.scaler else {}


def timeline(recorded: Recorded, setup: Setup) -> Memory:
    """Everything that a steady step allocates and frees, in order (optimiser state exists already)."""
    tape = recorded.tape
    memory = Memory(setup.on.granularity)
    for name, kind, size in standing(tape, setup):
        if size and (kind != "gradient" or setup.gradients_stand):
            memory.take(name, size, kind)
    if setup.gradients_stand:
        for name, size in _held_by_views(recorded):
            memory.take(name, size, "gradient")
    if setup.on.workspace:
        memory.take("workspace of the libraries", setup.on.workspace)
    run = Pass(recorded, memory, gradients_stand=setup.gradients_stand)
    run.forward()
    made = made_of_the_loss(tape, setup)
    for name, size in made.items():
        memory.take(name, size)
    run.begin_backward()
    run.backward()
    run.end_backward()
    memory.drop(*made)
    step_of_the_optimizer(tape, setup, memory)
    if not setup.gradients_stand:
        give_gradients_back(tape, run.gradients, memory)
    return memory


def begin_scaling(setup: Setup, memory: Memory) -> None:
    """A gradient scaler's own tensors, which it makes when it first scales."""
    for name, size in _of_the_scaler(setup).items():
        memory.take(name, size, "optimizer")


def made_of_the_loss(tape: Tape, setup: Setup) -> dict[str, int]:
    """Bytes, by name, of what is made of the loss and stays while backward runs: the mean over micro-batches,
    and the gradient scaler's product."""
    size = tape.tensors[tape.ops[-1].writes].bytes
    share = {"share of the loss": size} if setup.micro_batches > 1 else {}
    return {**share, "scaled loss": size} if setup.scaler else share


def _held_by_views(recorded: Recorded) -> Iterator[tuple[str, int]]:
    """Bytes, beside parameters' gradients, of the larger gradients of which these are views, and which they hold whole.
    (With one image: those of the class token, of registers, and of positions that are added to narrower patches.)"""
    memory = Memory()
    first = Pass(recorded, memory)
    first.forward()
    first.begin_backward()
    first.backward()
    for name, parameters in first.gradients.views.items():
        yield f"rest of {name}", memory.size(name) - sum(p.bytes for p in parameters)


def step_of_the_optimizer(tape: Tape, setup: Setup, memory: Memory, first: bool = False) -> None:
    """What the update allocates and frees.

    Args:
        first: whether it brings the optimiser's state into being, group by group.
    """
    memory.moment = Moment("optimizer", None, setup.optimizer)
    if setup.scaler:
        memory.take("whether a gradient overflowed", WIDTH["fp32"])
    stateful = _with_state(tape)
    for name, size in _shared(stateful, setup).items() if first else ():
        memory.take(name, size, "optimizer")
    for group in groups(stateful, tape.naming.embeddings):
        for p in group if first else ():
            for number, size in enumerate(_state(p, setup)):
                memory.take(f"state {number} of {p.name}", size, "optimizer")
        trained = [p for p in group if p.trains]
        if not trained:
            continue
        for change, name in OPTIMIZERS[setup.optimizer].step(trained, setup.runs_as, setup.on.number):
            if change > 0:
                memory.take(name, change)
            else:
                memory.drop(name)
    if setup.scaler:
        memory.drop("whether a gradient overflowed")


def give_gradients_back(tape: Tape, gradients: Gradients, memory: Memory) -> None:
    """What ends a step: the gradients go, in the optimiser's order."""
    memory.moment = Moment("optimizer", None, "zero_grad")
    whole = {p.name: name for name, parameters in gradients.views.items() for p in parameters}
    for group in groups([p for p in tape.parameters.values() if p.trains], tape.naming.embeddings):
        for p in group:
            name = whole.get(p.name, f"gradient of {p.name}")
            if memory.holders(name):
                memory.drop(name)


def optimizer_peak(trained: list[Parameter], setup: Setup) -> int:
    """Bytes that the optimiser's step allocates at most, beside what stands."""
    flag = setup.on.rounded(WIDTH["fp32"]) if setup.scaler else 0
    most = flag
    for group in groups(trained):
        level = flag
        for change, _ in OPTIMIZERS[setup.optimizer].step(group, setup.runs_as, setup.on.number):
            size = setup.on.rounded(abs(change))
            level += size if change > 0 else -size
            most = max(most, level)
    return most
