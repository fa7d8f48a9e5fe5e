"""Flat indices of all members of a space: family by family, over learning rates, batch sizes and members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.methods import Method
from bsr_explorer.search.members import Members


class Index:
    """Where each configuration of the families stands.

    Args:
        members: of each family.
        rates, batch_sizes: how each member may be run.
        depth: blocks of the model.
    """

    def __init__(
        self,
        members: Sequence[Members],
        rates: Sequence[float | None],
        batch_sizes: Sequence[int],
        depth: int,
    ) -> None:
        self.members, self.rates, self.batch_sizes, self.depth = members, rates, batch_sizes, depth

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(indices,) counted bytes."""
        return np.concatenate([np.tile(each.bytes.ravel(), len(self.rates)) for each in self.members])

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """(families,) where each family's indices end."""
        return np.cumsum([each.bytes.size * len(self.rates) for each in self.members])

    def before(self, place: int) -> int:
        """The first index of a family."""
        return int(self.ends[place - 1]) if place else 0

    @cached_property
    def strata(self) -> NDArray[np.int64]:
        """(indices,) one number for the family and how many blocks train."""
        return np.concatenate(
            [
                place * (self.depth + 1) + np.tile(each.trained, len(self.rates) * len(self.batch_sizes))
                for place, each in enumerate(self.members)
            ]
        )

    def find(self, method: Method) -> tuple[int, int] | None:
        """The family and the member of a canonical method, or None."""
        for place, each in enumerate(self.members):
            member = each.find(method)
            if member is not None:
                return place, member
        return None

    def at(self, place: int, member: int, size: int, rate: float | None) -> int:
        """The index of a member."""
        where = self.rates.index(rate), self.batch_sizes.index(size), member
        return self.before(place) + int(np.ravel_multi_index(where, self._shape(place)))

    def place(self, index: int) -> tuple[int, int, int, int]:
        """Of an index: family, learning rate, batch size, member."""
        place = int(np.searchsorted(self.ends, index, side="right"))
        rate, batch, member = np.unravel_index(index - self.before(place), self._shape(place))
        return place, int(rate), int(batch), int(member)

    def within(
        self, place: int, indices: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Of those of some indices that are of one family: learning rates, batch sizes and members."""
        own = indices[(indices >= self.before(place)) & (indices < self.ends[place])]
        rate, batch, member = np.unravel_index(own - self.before(place), self._shape(place))
        return rate, batch, member

    def around(self, index: int) -> Iterator[int]:
        """Indices that differ in one choice, or in how they are run."""
        place, rate, batch, member = self.place(index)
        size, lr = self.batch_sizes[batch], self.rates[rate]
        yield from (self.at(place, other, size, lr) for other in self.members[place].around(member))
        yield from (self.at(place, member, size, other) for other in self.rates)
        yield from (self.at(place, member, other, lr) for other in self.batch_sizes)

    def _shape(self, place: int) -> tuple[int, int, int]:
        batches, members = self.members[place].bytes.shape
        return len(self.rates), batches, members

    def spread(self, among: NDArray[np.intp], count: int, generator: np.random.Generator) -> NDArray[np.intp]:
        """So many of some flat indices, about as many of each of ``strata``."""
        strata = self.strata[among]
        rarity = 1 / np.bincount(strata)[strata]
        return generator.choice(among, count, replace=False, p=rarity / rarity.sum())
