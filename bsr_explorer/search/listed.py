"""Families whose configurations are predicted one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.errors import UserError
from bsr_explorer.methods import Method
from bsr_explorer.methods.axes import Params
from bsr_explorer.prediction import trained_blocks
from bsr_explorer.search.axes import Family
from bsr_explorer.search.features import Floats
from bsr_explorer.search.members import Ways, made_by

MOST_ONE_BY_ONE = 2000
"""Configurations of a family that are predicted one by one at most, which takes a minute or so."""


class Listed:
    """A family's configurations, each predicted by itself. What a part or the model refuses is none."""

    def __init__(self, family: Family, ways: Ways, taken: Callable[[Method], bool]) -> None:
        self.family, self.depth = family, ways.depth
        size = len(family) * len(ways.batch_sizes)
        if size > MOST_ONE_BY_ONE:
            raise UserError(
                f"[space] families: {family.text!r} has {size:,} configurations, more than the "
                f"{MOST_ONE_BY_ONE:,} that are predicted one by one; give fewer values to its axes in [space.axes] (of "
                f"bsr: max_blocks, drop_at, keep and fuse of [space]), or name arguments in it ({_example(family)})"
            )
        found: dict[str, tuple[Method, tuple[Any, ...], list[tuple[int, int]]]] = {}
        refused: UserError | None = None
        for values, method in made_by(family):
            try:
                canonical = method.canonical(ways.depth)
                if str(canonical) not in found and not taken(canonical):
                    costs = [ways.costs(method, batch) for batch in ways.batch_sizes]
                    found[str(canonical)] = method, values, costs
            except UserError as error:
                refused = refused or error
        if not found:
            raise refused or UserError(
                f"[space] families: {family.text!r} holds nothing that the other families do not; leave it out"
            )
        self.methods = [method for method, _, _ in found.values()]
        self._params = [family.said(values) for _, values, _ in found.values()]
        self._places = {text: place for place, text in enumerate(found)}
        table = np.array([each for _, _, each in found.values()], dtype=np.int64)  # (members, batch sizes, 2)
        self.bytes, self.train_flops = table[:, :, 0].T, table[:, :, 1].T
        self.trained = np.array([_trained_blocks(method, ways) for method in self.methods])

    def method(self, member: int) -> Method:
        """See ``Members``."""
        return self.methods[member]

    def kinds(self) -> list[Method]:
        """See ``Members``."""
        return self.methods

    def rows(self, of_kinds: Floats, chosen: NDArray[np.intp]) -> Floats:
        """See ``Members``."""
        return of_kinds[chosen]

    def find(self, method: Method) -> int | None:
        """See ``Members``."""
        return self._places.get(str(method))

    def said(self, member: int) -> Params:
        """See ``Members``."""
        return self._params[member]

    def nearest(self, params: Params) -> int:
        """See ``Members``: the first with the fewest parameters that differ."""
        apart = [sum(params[name] != value for name, value in own.items()) for own in self._params]
        return int(np.argmin(apart))

    def around(self, member: int) -> Iterator[int]:
        """See ``Members``."""
        for place, values in enumerate(self._values):
            if sum(a != b for a, b in zip(values, self._values[member], strict=True)) == 1:
                yield place

    @cached_property
    def _values(self) -> list[tuple[Any, ...]]:
        return [tuple(params.values()) for params in self._params]


def _trained_blocks(method: Method, ways: Ways) -> int:
    return len(trained_blocks(ways.config.with_method(method)))


def _example(family: Family) -> str:
    """An argument that could be named."""
    part, axis = max(family.axes, key=lambda each: len(each[1]))
    return f"{part.method.name}({axis.argument}={next(axis.values())!r})"
