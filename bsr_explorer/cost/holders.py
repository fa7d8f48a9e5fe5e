"""Tensors by name, with their sizes and the number of their holders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bsr_explorer.tape import Course


class Moment(NamedTuple):
    """When: ``phase`` is ``standing``, ``forward``, ``backward`` or ``optimizer``; ``block`` is 0-based."""

    phase: str
    block: int | None
    operation: str


class Event(NamedTuple):
    """Something was allocated (``change`` > 0) or freed (< 0), in bytes."""

    change: int
    name: str
    moment: Moment


@dataclass(frozen=True)
class Level:
    """The fullest that memory is during one operation of a step.

    Attributes:
        moment: which operation, in which phase.
        bytes: all that is alive then.
        alive: of what kinds it is, bytes each; see ``Row.kind``.
    """

    moment: Moment
    bytes: int
    alive: dict[str, int]


class Memory:
    """Tensors by name, each with its size and the number of its holders.

    Attributes:
        events: everything that was allocated and freed, in order.
        kinds: the ledger's kind of each name; ``transient`` where nothing is said.
        buffers: how many gradients have been on their way; by their numbers they are told apart.
    """

    def __init__(self, granularity: int = 1) -> None:
        """``granularity``: the allocator rounds sizes up to a multiple of so many bytes."""
        self.events: list[Event] = []
        self.kinds: dict[str, str] = {}
        self.buffers = 0
        self.moment = Moment("standing", None, "")
        self._granularity = granularity
        self._sizes: dict[str, int] = {}
        self._holders: dict[str, int] = {}
        self._pieces: dict[str, list[str]] = {}

    def take(self, name: str, size: int, kind: str = "transient", pieces: Sequence[int] = ()) -> None:
        """Allocate; the caller holds it.

        Args:
            pieces: bytes of each of the tensors that it consists of, if they are several.
        """
        if len(pieces) > 1:
            self._pieces[name] = [f"{name}, part {number}" for number, _ in enumerate(pieces)]
            for part, bytes_of_it in zip(self._pieces[name], pieces, strict=True):
                self.take(part, bytes_of_it, kind)
            size = sum(self._sizes[part] for part in self._pieces[name])
        self.found(name, size, kind)
        if len(pieces) <= 1:
            self.events.append(Event(self._sizes[name], name, self.moment))

    def found(self, name: str, size: int, kind: str = "transient") -> None:
        """It was allocated before the record begins; the caller holds it."""
        assert not self._holders.get(name), f"{name} is already there"
        self._sizes[name] = -(-size // self._granularity) * self._granularity
        self._holders[name] = 1
        if kind != "transient":
            self.kinds[name] = kind

    def hold(self, name: str, kind: str | None = None) -> None:
        """One more holder."""
        assert self._holders.get(name), f"{name} is gone"
        self._holders[name] += 1
        if kind is not None:
            self.kinds[name] = kind

    def drop(self, *names: str) -> None:
        """One holder less of each; freed with the last."""
        for name in names:
            left = self._holders.get(name, 0) - 1
            assert left >= 0, f"{name} is gone"
            self._holders[name] = left
            if not left and name in self._pieces:
                self.drop(*self._pieces.pop(name))
            elif not left:
                self.events.append(Event(-self._sizes[name], name, self.moment))

    def scratch(self, *sizes: int) -> None:
        """Allocate these and free them, the last first."""
        names = [f"scratch {number}" for number, _ in enumerate(sizes)]
        for name, size in zip(names, sizes, strict=True):
            self.take(name, size)
        self.drop(*reversed(names))

    def follow(self, name: str, course: Course) -> None:
        """Allocate and free as a course says."""
        there: dict[int, list[str]] = {}
        for number, change in enumerate(course):
            if change > 0:
                there.setdefault(change, []).append(f"{name} {number}")
                self.take(f"{name} {number}", change)
            else:
                self.drop(there[-change].pop())

    def size(self, name: str) -> int:
        """Bytes of a tensor that is, or was, there."""
        return self._sizes[name]

    def holders(self, name: str) -> int:
        """How many hold it."""
        return self._holders.get(name, 0)
