"""The configurations of a family with their costs: ``laid`` out at once, or ``listed`` one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Method
from bsr_explorer.methods.axes import Params
from bsr_explorer.prediction import check_ruled, counted_bytes, geometry_of, predict
from bsr_explorer.search.axes import Family
from bsr_explorer.search.features import Floats

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Ways:
    """How the configurations of a study are run and counted.

    Attributes:
        config: of all of them, but for the method and the batch size.
        batch_sizes: images a step.
        counts: the accounting of the budget.
        quantile: of steps that differ; see ``counted_bytes``.
    """

    config: Config
    batch_sizes: tuple[int, ...]
    counts: str
    quantile: float = 1.0

    @cached_property
    def depth(self) -> int:
        """Blocks of the model."""
        return geometry_of(self.config).depth

    def costs(self, method: Method, batch_size: int) -> tuple[int, int]:
        """Counted bytes and training FLOPs of one configuration.

        Raises:
            UserError: see ``predict``.
        """
        config = replace(self.config, method=method, batch_size=batch_size, lr=None)
        return _costs(config, self.counts, self.quantile)


@lru_cache(maxsize=2**14)
def _costs(config: Config, counts: str, quantile: float) -> tuple[int, int]:
    check_ruled(config, counts)
    return counted_bytes(config, counts, quantile), predict(config).train_flops


class Members(Protocol):
    """A family's configurations, numbered.

    Attributes:
        family: what they are of.
        bytes, train_flops: (batch sizes, members).
        trained: (members,) blocks of which anything trains.
    """

    family: Family
    bytes: Counts
    train_flops: Counts
    trained: NDArray[np.int64]

    def method(self, member: int) -> Method:
        """The method of a member."""
        ...

    def find(self, method: Method) -> int | None:
        """The member with this canonical method, or None."""
        ...

    def said(self, member: int) -> Params:
        """Parameters of a member's choices."""
        ...

    def nearest(self, params: Params) -> int:
        """The member for parameters that say none of them."""
        ...

    def kinds(self) -> list[Method]:
        """Methods that have all the ways to train and store which members have, so that each member's row of features
        follows from one of theirs."""
        ...

    def rows(self, of_kinds: Floats, chosen: NDArray[np.intp]) -> Floats:
        """(n, width) of members, given the rows of ``kinds``."""
        ...

    def around(self, member: int) -> Iterator[int]:
        """Members that differ in one choice."""
        ...


def made_by(family: Family) -> list[tuple[tuple[Any, ...], Method]]:
    """What a family makes, each method once, with its values; none where it has no parts.

    Raises:
        UserError: its parts refuse all values.
    """
    if not family.parts:
        return []
    made: dict[Method, tuple[Any, ...]] = {}
    refused: UserError | None = None
    for values in family.values():
        try:
            made.setdefault(family.make(values), values)
        except UserError as error:
            refused = refused or error
    if refused is not None and not made:
        raise refused
    return [(values, method) for method, values in made.items()]
