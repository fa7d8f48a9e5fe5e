"""The first steps of a process on a GPU, event by event, and what torch's allocator makes of them.

What is reserved follows from the order in which memory was taken and given back since the process began: the weights,
the batch, a first step that brings the libraries' workspaces and the optimiser's state into being, and steps like it
until nothing is added.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from bsr_explorer.cost.allocator import Allocator
from bsr_explorer.cost.gradients import Gradients
from bsr_explorer.cost.holders import Event, Level, Memory, Moment
from bsr_explorer.cost.passes import Pass
from bsr_explorer.cost.setup import Setup
from bsr_explorer.cost.step import Recorded
from bsr_explorer.cost.timeline import (
    begin_scaling,
    give_gradients_back,
    made_of_the_loss,
    step_of_the_optimizer,
)

STEPS = 5
"""Steps that are followed at most, until one reserves nothing and has the peak of the one before."""


@dataclass(frozen=True)
class Steady:
    """What the allocator says of a steady step.

    Attributes:
        levels: how full memory is, operation by operation, as ``torch.cuda.memory_allocated`` has it: with what blocks
            hold beyond what was asked of them (which counts as ``transient``).
        reserved: bytes that the allocator has taken from the device (``torch.cuda.max_memory_reserved``).
    """

    levels: list[Level]
    reserved: int

    @property
    def standing(self) -> int:
        """Bytes in use before the step."""
        return self.levels[0].bytes

    @property
    def peak(self) -> int:
        """The most bytes in use during the step (``torch.cuda.max_memory_allocated``)."""
        return max(level.bytes for level in self.levels)


def steady(recorded: Recorded, setup: Setup) -> Steady:
    """Follow the allocator from the beginning of a process to a steady step."""
    process = Process(setup)
    steps = from_the_start(recorded, setup, process.memory)
    for events in itertools.islice(steps, 1):
        process.follow(events)
    before: Steady | None = None
    for events in steps:
        now = Steady(process.follow(events), process.allocator.reserved)
        if before and (now.peak, now.reserved, now.standing) == (
            before.peak,
            before.reserved,
            before.standing,
        ):
            break
        before = now
    return now


class Process:
    """What a process has taken and given back.

    Attributes:
        memory: tensors by name.
        allocator: what hands their memory out.
    """

    def __init__(self, setup: Setup) -> None:
        self.memory, self.allocator = Memory(setup.on.granularity), Allocator(setup.on.caching)
        self._addresses: dict[str, int] = {}
        self._alive: Counter[str] = Counter()

    def follow(self, events: Iterable[Event]) -> list[Level]:
        """Let the allocator hand out, and take back, what events say; how full memory is then, before them first."""
        made = [self._level(Moment("standing", None, ""))]
        for moment, during in groupby(events, key=lambda event: event.moment):
            fullest = self._level(moment)
            for event in during:
                if event.change > 0:
                    self._addresses[event.name] = self.allocator.take(event.change)
                elif event.change < 0:
                    self.allocator.give(self._addresses.pop(event.name))
                self._alive[self.memory.kinds.get(event.name, "transient")] += event.change
                if self.allocator.allocated > fullest.bytes:
                    fullest = self._level(moment)
            made.append(fullest)
        return made

    def _level(self, moment: Moment) -> Level:
        beyond = self.allocator.allocated - self._alive.total()
        alive = Counter(self._alive)
        alive["transient"] += beyond
        return Level(moment, self.allocator.allocated, {kind: size for kind, size in alive.items() if size})


def from_the_start(recorded: Recorded, setup: Setup, memory: Memory) -> Iterator[list[Event]]:
    """The events of what happens before the first step, and of each of ``STEPS`` steps, as a memory sees them."""
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
    gradients: Gradients | None = None
    for part in range(setup.micro_batches):
        stand = part > 0 or not (first or setup.set_to_none)
        run = Pass(recorded, memory, gradients_stand=stand)
        run.forward()
        made = made_of_the_loss(tape, setup)
        if first and not part:
            begin_scaling(setup, memory)
        for name, size in made.items():
            memory.take(name, size)
        run.begin_backward()
        run.backward()
        run.end_backward()
        memory.drop(*made)
        gradients = gradients or run.gradients
    step_of_the_optimizer(tape, setup, memory, first)
    if setup.set_to_none and gradients is not None:
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
