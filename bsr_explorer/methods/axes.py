"""What a method can vary: its arguments with the values that a search may give them, as plain data.

Five kinds: ``Subsets`` of blocks; ``Schedules``, a keep rate at each of some blocks; ``Numbers``, which have an order,
such as ranks, ratios and bits; ``Choices``, which have none; ``Flag``. Each says its values as *parameters*, plain
values by name, which is what a sampler sees: a bit a block, a rate a block, or the value itself.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from bsr_explorer.errors import UserError

Params = dict[str, Any]
"""Plain values (text, numbers, true or false) by the name of a parameter."""

MOST_SUBSETS = 2**17
"""Subsets of blocks that a search lays out at most, each with every other choice."""


@dataclass(frozen=True)
class Axis(ABC):
    """One argument of a method.

    Attributes:
        argument: its name.
    """

    argument: str

    @abstractmethod
    def values(self) -> Iterator[Any]:
        """What the argument may be, in order."""

    @abstractmethod
    def __len__(self) -> int:
        """How many values there are."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, tuple[Any, ...]]:
        """What each of its parameters may be, by name, in order."""

    @abstractmethod
    def said(self, value: Any = None) -> Params:
        """Parameters of a value; without one, those of a method that does not have the argument.

        A value that is none of the axis's is said as nearly as its parameters can.
        """

    @abstractmethod
    def value(self, params: Mapping[str, Any]) -> Any:
        """The value of parameters."""

    @abstractmethod
    def only(self, asked: Any, where: str) -> Self:
        """The same axis with fewer values, or others.

        Args:
            asked: as a study file says it.
            where: what an error names.

        Raises:
            UserError: it cannot be said of this kind of axis.
        """


@dataclass(frozen=True)
class Subsets(Axis):
    """Subsets of blocks, smallest first.

    Attributes:
        depth: blocks of the model.
        most: blocks of the largest subset.
    """

    depth: int
    most: int

    @classmethod
    def of(cls, argument: str, depth: int) -> Subsets:
        """All subsets, or those of so few blocks that a search can lay them out beside other choices."""
        fits = (most for most in range(depth + 1) if len(cls(argument, depth, most)) <= MOST_SUBSETS // 2)
        return cls(argument, depth, max(fits))

    def values(self) -> Iterator[tuple[int, ...]]:
        """See ``Axis``."""
        for size in range(self.most + 1):
            yield from itertools.combinations(range(self.depth), size)

    def __len__(self) -> int:
        return sum(math.comb(self.depth, size) for size in range(self.most + 1))

    @property
    def parameters(self) -> dict[str, tuple[Any, ...]]:
        """A bit a block."""
        return {self._name(block): (False, True) for block in range(self.depth)}

    def said(self, value: Any = None) -> Params:
        """See ``Axis``."""
        chosen = value or ()
        return {self._name(block): block in chosen for block in range(self.depth)}

    def value(self, params: Mapping[str, Any]) -> tuple[int, ...]:
        """The blocks; of more than may be, the topmost."""
        blocks = [block for block in range(self.depth) if params[self._name(block)]]
        return tuple(blocks[max(0, len(blocks) - self.most) :])

    def only(self, asked: Any, where: str) -> Self:
        """``asked``: the most blocks."""
        if isinstance(asked, bool) or not isinstance(asked, int) or not 0 <= asked <= self.depth:
            raise UserError(
                f"{where}: {asked!r} must be the most blocks of a subset, a whole number from 0 to {self.depth}"
            )
        return replace(self, most=asked)

    def _name(self, block: int) -> str:
        return f"{self.argument.removesuffix('s')}_{block:02d}"


@dataclass(frozen=True)
class Schedules(Axis):
    """A rate at each of some blocks, as a dictionary by block.

    Attributes:
        at: 0-based blocks.
        rates: to choose from; 1.0 changes nothing.
    """

    at: tuple[int, ...]
    rates: tuple[float, ...]

    def values(self) -> Iterator[dict[int, float]]:
        """See ``Axis``."""
        for rates in itertools.product(self.rates, repeat=len(self.at)):
            yield dict(zip(self.at, rates, strict=True))

    def __len__(self) -> int:
        return int(len(self.rates) ** len(self.at))

    @property
    def parameters(self) -> dict[str, tuple[Any, ...]]:
        """A rate a block."""
        return {self._name(block): tuple(sorted(self.rates)) for block in self.at}

    def said(self, value: Any = None) -> Params:
        """See ``Axis``; where it says no rate of the axis, the highest."""
        given = {block: (value or {}).get(block, 1.0) for block in self.at}
        return {
            self._name(block): rate if rate in self.rates else max(self.rates)
            for block, rate in given.items()
        }

    def value(self, params: Mapping[str, Any]) -> dict[int, float]:
        """See ``Axis``."""
        return {block: params[self._name(block)] for block in self.at}

    def only(self, asked: Any, where: str) -> Self:
        """``asked``: rates, or a table of ``at`` and ``rates``."""
        given = asked if isinstance(asked, Mapping) else {"rates": asked}
        if not given.keys() <= {"at", "rates"} or not all(
            isinstance(v, (list, tuple)) for v in given.values()
        ):
            raise UserError(
                f"{where}: {asked!r} must be a list of rates, or a table such as {{at = [3, 6], rates = [1.0, 0.5]}}"
            )
        at, rates = tuple(given.get("at", self.at)), tuple(given.get("rates", self.rates))
        changed = replace(self, at=at, rates=rates)
        if not changed.rates:
            raise UserError(f"{where}: needs at least one rate, such as [1.0]")
        return changed

    def _name(self, block: int) -> str:
        return f"{self.argument}_{block:02d}"


@dataclass(frozen=True)
class Choices(Axis):
    """One of some values that have no order.

    Attributes:
        among: the values.
    """

    among: tuple[Any, ...]

    def values(self) -> Iterator[Any]:
        """See ``Axis``."""
        yield from self.among

    def __len__(self) -> int:
        return len(self.among)

    @property
    def parameters(self) -> dict[str, tuple[Any, ...]]:
        """The value; one that is not plain as it is written."""
        return {self.argument: tuple(_plain(value) for value in self.among)}

    def said(self, value: Any = None) -> Params:
        """See ``Axis``; where it is none of the values, the first."""
        return {self.argument: _plain(value if value in self.among else self.among[0])}

    def value(self, params: Mapping[str, Any]) -> Any:
        """See ``Axis``."""
        return next(value for value in self.among if _plain(value) == params[self.argument])

    def only(self, asked: Any, where: str) -> Self:
        """``asked``: a list of values."""
        if not isinstance(asked, (list, tuple)) or not asked:
            raise UserError(f"{where}: {asked!r} must be a list of at least one value")
        values = tuple(tuple(value) if isinstance(value, list) else value for value in asked)
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"{where}: {twice[0]!r} stands twice; name each value once")
        return replace(self, among=values)


@dataclass(frozen=True)
class Numbers(Choices):
    """One of some numbers, in their order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "among", tuple(sorted(self.among)))

    def place(self, value: float) -> float:
        """Where a number stands among them, from 0 (the first) to 1 (the last)."""
        return self.among.index(value) / max(1, len(self.among) - 1)

    def only(self, asked: Any, where: str) -> Self:
        """``asked``: a list of numbers."""
        numbers = asked if isinstance(asked, (list, tuple)) else [asked]
        for value in numbers:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UserError(f"{where}: {value!r} is no number; give a list of numbers")
        return super().only(asked, where)


@dataclass(frozen=True)
class Flag(Choices):
    """True, false, or either."""

    among: tuple[Any, ...] = (True, False)

    @property
    def parameters(self) -> dict[str, tuple[Any, ...]]:
        """See ``Axis``."""
        return {self.argument: tuple(sorted(self.among))}

    def said(self, value: Any = None) -> Params:
        """See ``Axis``; of what does not have it, true if it may be."""
        return super().said(True if value is None else value)

    def only(self, asked: Any, where: str) -> Self:
        """``asked``: a list of true, false or both."""
        flags = asked if isinstance(asked, (list, tuple)) else [asked]
        for value in flags:
            if not isinstance(value, bool):
                raise UserError(f"{where}: {value!r} is neither true nor false")
        return super().only(asked, where)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
