"""How the kernels divide a tensor among their programs, and what they take on the way.

The kernels and the prediction of memory read the same numbers here; nothing depends on the card.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import WIDTH

SEGMENT = 2**10
"""Elements side by side in a group from which on a group is read in runs; if fewer, by columns."""

CHUNK = 2**13
"""Elements of such a run that one program reads."""

TALL, WIDE = 16, 128
"""Rows and columns that a program reads at once, where groups are read by columns."""

SHARES = 128
"""Programs, at most, that share the rows of a column."""

BYTES = 2**8
"""Lanes of a program that packs or unpacks numbers: four numbers each when it packs."""

PIECE = 2**12
"""Elements of a piece that one program compacts or expands; below 2^16, for it counts two things in 32 bits."""

SEED = WIDTH["int64"]
"""Bytes of a seed."""


@dataclass(frozen=True)
class Groups:
    """A contiguous tensor as (outer, count, inner), each of ``count`` groups with a range of its own."""

    outer: int
    count: int
    inner: int

    @property
    def by_columns(self) -> bool:
        """Whether its extremes are sought column by column."""
        return self.inner < SEGMENT

    @property
    def rows_each(self) -> int:
        """Rows of a column that one program reads."""
        return TALL * math.ceil(self.outer / (TALL * SHARES))

    @property
    def shares(self) -> int:
        """Programs that share the rows of a column, or a run."""
        return math.ceil(self.outer / self.rows_each) if self.by_columns else math.ceil(self.inner / CHUNK)

    @property
    def extremes(self) -> int:
        """Smallest values that programs find in one group, and as many largest."""
        return self.shares * (self.inner if self.by_columns else self.outer)

    @property
    def scratch(self) -> int:
        """Whole numbers of 32 bits: all these, and a scale a group."""
        return self.count * (2 * self.extremes + 1)


def groups_of(shape: Shape, count: int, axis: int) -> Groups:
    """Groups that divide a dimension into equal, contiguous parts (one group: whatever the dimension)."""
    axis %= len(shape)
    if count == 1:
        return Groups(1, 1, math.prod(shape))
    return Groups(math.prod(shape[:axis]), count, math.prod(shape[axis:]) // count)


def tiles(elements: int) -> int:
    """Programs that share a piece of a sparse tensor."""
    return math.ceil(elements / PIECE)


def sparse_scratch(pieces: int, elements: int) -> int:
    """Whole numbers of 32 bits that sparse packing takes: of each piece the threshold and how many ties it keeps; of
    each of its tiles how many elements above the threshold, and how many at it, come before."""
    return 2 * pieces * (1 + tiles(elements))
