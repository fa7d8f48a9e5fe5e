"""The first steps of a process on a GPU, event by event, and what torch's allocator makes of them.

What is reserved follows from the order in which memory was taken and given back since the process began: the weights,
the batch, a first step that brings the libraries' workspaces and the optimiser's state into being, and steps like it
until nothing is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bsr_explorer.cost.allocator import Allocator
from bsr_explorer.cost.holders import Event, Memory, Moment
from bsr_explorer.cost.passes import Pass
from bsr_explorer.cost.peak import give_gradients_back, made_of_the_loss, step_of_the_optimizer
from bsr_explorer.cost.setup import Setup
from bsr_explorer.cost.step import Recorded
from bsr_explorer.units import WIDTH

STEPS = 5
"""Steps that are followed at most, until one reserves nothing and has the peak of the one before."""


@dataclass(frozen=True)
class Steady:
    """What the allocator says of a steady step.

    Attributes:
        peak: the most bytes in use during the step, as ``torch.cuda.max_memory_allocated`` has it: with what blocks
            hold beyond what was asked of them.
        reserved: bytes that the allocator has taken from the device (``torch.cuda.max_memory_reserved``).
        standing: bytes in use before the step.
        moment: when the peak is.
        step: the number of the step, 0 is the first.
    """

    peak: int
    reserved: int
    standing: int
    moment: Moment
    step: int


def steady(recorded: Recorded, setup: Setup) -> Steady:
    """Follow the allocator from the beginning of a process to a steady step."""
    allocator, addresses = Allocator(), dict[str, int]()
    before: Steady | None = None
    for step, events in enumerate(from_the_start(recorded, setup)):
        allocator.forget()
        standing, most, moment = allocator.allocated, allocator.allocated, Moment("standing", None, "")
        for event in events:
            if event.change > 0:
                addresses[event.name] = allocator.take(event.change)
            elif event.change < 0:
                allocator.give(addresses.pop(event.name))
            if allocator.most_allocated > most:
                most, moment = allocator.most_allocated, event.moment
        now = Steady(most, allocator.reserved, standing, moment, step - 1)
        if before and (now.peak, now.reserved, now.standing) == (before.peak, before.reserved, before.standing):
            break
        before = now
    return now


def from_the_start(recorded: Recorded, setup: Setup) -> Iterator[list[Event]]:
    """The events of what happens before the first step, and of each of ``STEPS`` steps."""
    memory = Memory(setup.on.granularity)
    _load(recorded, setup, memory)
    yield memory.events
    for step in range(STEPS):
        memory.events = []
        _step(recorded, setup, memory, first=not step)
        yield memory.events if step else with_workspaces(memory.events, recorded, setup)


def _load(recorded: Recorded, setup: Setup, memory: Memory) -> None:
    """Weights and buffers, the model's own after those of its modules (as ``Module.to`` goes); the batch."""
    tape = recorded.tape
    everything = (*tape.parameters.values(), *tape.buffers.values())
    for p in sorted(everything, key=lambda p: "." not in p.name):
        memory.take(p.name, p.bytes, "parameter")
    for tensor in tape.inputs:
        if tensor.role == "input":
            memory.take(tensor.name, tensor.bytes * setup.micro_batches, "input")


def _step(recorded: Recorded, setup: Setup, memory: Memory, first: bool) -> None:
    tape = recorded.tape
    for part in range(setup.micro_batches):
        stand = part > 0 or not (first or setup.set_to_none)
        run = Pass(recorded, memory, gradients_stand=stand)
        run.forward()
        made = made_of_the_loss(tape, setup)
        if first and not part and setup.scaler:
            for name in ("scale", "growth"):
                memory.take(f"{name} of the gradient scaler", WIDTH["fp32"], "optimizer")
        for name, size in made.items():
            memory.take(name, size)
        run.begin_backward()
        run.backward()
        run.end_backward()
        memory.drop(*made)
        gradients = run.gradients if not part else gradients
    step_of_the_optimizer(tape, setup, memory, first)
    if setup.set_to_none:
        give_gradients_back(tape, gradients, memory)


def with_workspaces(events: list[Event], recorded: Recorded, setup: Setup) -> list[Event]:
    """The events of a first step with those of the libraries' workspaces: each thread that multiplies takes its own,
    once the result of its first product is there."""
    linear = {op.name: op.writes for op in recorded.tape if op.kind == "linear"}
    made, missing = list[Event](), dict(setup.on.workspaces)
    for event in events:
        made.append(event)
        phase, _, operation = event.moment
        if phase not in missing or event.change <= 0 or operation not in linear:
            continue
        if phase == "backward" or event.name == linear[operation]:
            made += [Event(size, name, event.moment) for name, size in missing.pop(phase).items()]
    return made
