"""The peak of a training step: everything that is alive, over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from bsr_explorer.cost.bounds import unknown_of
from bsr_explorer.cost.cold import steady
from bsr_explorer.cost.holders import Event, Level, Memory
from bsr_explorer.cost.setup import Setup
from bsr_explorer.cost.step import Recorded, saved_rows
from bsr_explorer.cost.timeline import standing_rows, timeline
from bsr_explorer.ledger import Ledger, Peak, Row, ledger
from bsr_explorer.tape import Tape


def step_ledger(tape: Tape, setup: Setup) -> Ledger:
    """The ledger of a whole step, with its peak; on a device whose allocator caches, as it counts, with what it
    reserves."""
    recorded = Recorded.of(tape)
    rows = [*standing_rows(tape, setup), *saved_rows(recorded), *computed_rows(recorded, setup)]
    unknown = unknown_of(recorded, setup.micro_batches)
    if not setup.on.caches:
        peak = find_peak(timeline(recorded, setup))
        return ledger(rows, peak.bytes, "predicted", peak, unknown=unknown)
    found = steady(recorded, setup)
    peak = _peak(found.levels)
    beside = {"reserved_bytes": found.reserved, "context_bytes": setup.on.context}
    return ledger(rows, peak.bytes, "predicted", peak, beside=beside, unknown=unknown)


def computed_rows(recorded: Recorded, setup: Setup) -> Iterator[Row]:
    """Rows of what a whole step computes: all its micro-batches."""
    for op, kind, flops in recorded.computed():
        yield Row(op.block, op.name, kind, flops=flops * setup.micro_batches)


def find_peak(memory: Memory) -> Peak:
    """The first fullest moment, and what is alive then."""
    return _peak(course(memory))


def _peak(levels: list[Level]) -> Peak:
    fullest = max(levels, key=lambda level: level.bytes)
    return Peak(fullest.bytes, *fullest.moment, fullest.alive)


def over_time(recorded: Recorded, setup: Setup) -> list[Level]:
    """How full memory is in a steady step, operation by operation; the highest level is the peak of ``step_ledger``."""
    return steady(recorded, setup).levels if setup.on.caches else course(timeline(recorded, setup))


def course(memory: Memory) -> list[Level]:
    """How memory goes through a step, operation by operation; the highest level of all is its peak."""
    alive: Counter[str] = Counter()
    made: list[Level] = []
    for moment, events in groupby(memory.events, key=lambda event: event.moment):
        most, then = alive.total(), dict(alive)
        for event in events:
            alive[memory.kinds.get(event.name, "transient")] += event.change
            if alive.total() > most:
                most, then = alive.total(), dict(alive)
        made.append(Level(moment, most, {kind: size for kind, size in then.items() if size}))
    return made


def levels(events: list[Event]) -> tuple[int, int]:
    """Where the events lead, and how high they go: bytes relative to their beginning."""
    level = most = 0
    for event in events:
        level += event.change
        most = max(most, level)
    return level, most
