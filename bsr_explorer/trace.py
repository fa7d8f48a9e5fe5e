"""What a GPU's allocator did in a step, recorded, and beside it what was predicted: event by event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from bsr_explorer.config import Config
from bsr_explorer.cost.cold import from_the_start
from bsr_explorer.cost.holders import Event, Memory
from bsr_explorer.cost.step import Recorded
from bsr_explorer.errors import UserError
from bsr_explorer.files import whole
from bsr_explorer.prediction import predict, tape_of

VERSION = 1
"""Of the files."""

UNIT = 512
"""Bytes: events are in whole pieces of so many, as the allocator hands them out."""

LEAST = 2**20
"""Events of no more bytes are left out: they come from segments of their own, which are small."""


@dataclass(frozen=True)
class Trace:
    """A recorded step.

    Attributes:
        config: as ``Config.from_dict`` takes it.
        peak, reserved: ``max_memory_allocated`` of a steady step, and ``max_memory_reserved`` since its process began,
            bytes.
        before_first, before_step: bytes allocated before the first and before the steady step.
        events: what the steady step took (> 0) and freed (< 0), in order, in units of 512 bytes; those of more than
            1 MiB.
        provenance: what it was recorded on.
    """

    config: dict[str, Any]
    peak: int
    reserved: int
    before_first: int
    before_step: int
    events: tuple[int, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Read a file.

        Raises:
            UserError: it cannot be read, is damaged, or of another version.
        """
        try:
            values = json.loads(path.read_text())
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, RecursionError):
            raise UserError(f"{path}: damaged: it is no JSON; record it again") from None
        if not isinstance(values, dict) or "version" not in values:
            raise UserError(
                f"{path}: not a recorded step; `bsr-explore trace CONFIG.toml --out FILE` makes one"
            )
        if values.pop("version") != VERSION:
            raise UserError(f"{path}: of another version than {VERSION}; record it again")
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], named: str = "trace") -> Trace:
        """From plain values.

        Raises:
            UserError: something is missing, or is not what it should be.
        """
        try:
            made = cls(**{**values, "events": tuple(values["events"])})
            config = Config.from_dict(dict(made.config))
        except UserError as error:
            raise UserError(f"{named}: damaged: config: {error}; record it again") from None
        except (AttributeError, KeyError, TypeError, ValueError):
            known = ", ".join(each.name for each in fields(cls))
            raise UserError(f"{named}: damaged: it should hold {known}; record it again") from None
        numbers = {"peak": made.peak, "reserved": made.reserved}
        numbers |= {"before_first": made.before_first, "before_step": made.before_step}
        for name, number in numbers.items():
            if not _whole(number) or number <= 0:
                raise UserError(
                    f"{named}: damaged: {name}: {number!r} is no number of bytes; record it again"
                )
        if not isinstance(values["events"], list) or not all(_whole(each) and each for each in made.events):
            raise UserError(f"{named}: damaged: events are whole numbers, none of them 0; record it again")
        if not isinstance(made.provenance, dict) or not config.caches:
            raise UserError(f"{named}: damaged: it says of no step on a GPU; record it again")
        return made

    def write(self, path: Path) -> None:
        """Write a file, whole or not at all."""
        with whole(path) as file:
            file.write((json.dumps({"version": VERSION, **asdict(self)}) + "\n").encode())


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Difference:
    """The first event of a step that is not as predicted.

    Attributes:
        number: of the recorded events; those before it agree.
        recorded: its bytes, taken (> 0) or freed (< 0); None: the recorded step is over.
        predicted: the same of the event that was predicted there; None: no more were.
        name: of the predicted tensor.
        at: the predicted moment: phase, block and operation.
    """

    number: int
    recorded: int | None
    predicted: int | None
    name: str = ""
    at: str = ""


@dataclass(frozen=True)
class Beside:
    """A recorded step beside its prediction.

    Attributes:
        peak, reserved: predicted bytes.
        events: how many are predicted.
        first: the first event that differs; None: all agree.
    """

    peak: int
    reserved: int
    events: int
    first: Difference | None


def beside(trace: Trace, config: Config | None = None) -> Beside:
    """Compare a recorded step with its prediction.

    Args:
        config: what to predict for; the recorded one if left out.

    Raises:
        UserError: see ``predict``.
    """
    config = config or Config.from_dict(trace.config)
    said = predict(config)
    mine = predicted_events(config)
    return Beside(said.peak_bytes, said.reserved_bytes, len(mine), _first_difference(trace.events, mine))


def predicted_events(config: Config) -> list[Event]:
    """What a steady step is predicted to take and free, but for what is at most ``LEAST`` bytes."""
    memory = Memory(UNIT)
    of_steps = from_the_start(Recorded.of(tape_of(config)), config.setup, memory)
    *_, events = (next(of_steps) for _ in range(3))
    return [event for event in events if abs(event.change) > LEAST]


def _first_difference(theirs: Sequence[int], mine: Sequence[Event]) -> Difference | None:
    """Takes are compared in order; what is freed between two of them, as a set: the allocator does not see its
    order."""
    number = 0
    recorded = (list(run) for _, run in groupby(theirs, key=lambda change: change > 0))
    predicted = (list(run) for _, run in groupby(mine, key=lambda event: event.change > 0))
    while their_run := next(recorded, []):
        my_run = next(predicted, [])
        if their_run[0] < 0:
            their_run, my_run = sorted(their_run), sorted(my_run, key=lambda event: event.change)
        for their, event in zip_longest(their_run, my_run):
            if event is None or their is None or their * UNIT != event.change:
                return _difference(number, their, event)
            number += 1
    more = next(predicted, [])
    return _difference(number, None, more[0]) if more else None


def _difference(number: int, their: int | None, event: Event | None) -> Difference:
    recorded = None if their is None else their * UNIT
    if event is None:
        return Difference(number, recorded, None)
    phase, block, operation = event.moment
    where = f"block {block}, " if block is not None else ""
    return Difference(number, recorded, event.change, event.name, f"{phase}, {where}{operation}")
