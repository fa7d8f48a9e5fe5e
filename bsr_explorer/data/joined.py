"""Parts of several data sets as one, whose classes stand side by side."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bsr_explorer.data.cells import Encoded
from bsr_explorer.data.images import Part
from bsr_explorer.data.pool import Images, Pool


@dataclass(frozen=True)
class Joined:
    """Images of several pools, one after the other.

    Attributes:
        names: what each task is called.
        starts: the position of the first image of each.
    """

    names: tuple[str, ...]
    pools: tuple[Images, ...]
    starts: tuple[int, ...]

    def __getitem__(self, index: int) -> Image.Image:
        task = bisect_right(self.starts, index) - 1
        return self.pools[task][index - self.starts[task]]

    def fingerprint(self, indices: NDArray[np.intp]) -> bytes:
        """Equal for equal images, in this order."""
        found = hashlib.sha256(np.ascontiguousarray(indices).data)
        for pool, mine in zip(self.pools, self._apart(indices), strict=True):
            found.update(pool.fingerprint(mine))
        return found.digest()

    def files(self, indices: Sequence[int] | NDArray[np.intp] | None = None) -> dict[Encoded, str]:
        """Those of all, each name after that of its task."""
        apart = [None] * len(self.pools) if indices is None else self._apart(np.asarray(indices))
        return {
            path: f"{task}/{name}"
            for task, pool, mine in zip(self.names, self.pools, apart, strict=True)
            for path, name in pool.files(mine).items()
        }

    def _apart(self, indices: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Positions in each pool of its own."""
        task = np.searchsorted(self.starts, indices, side="right") - 1
        return [indices[task == n] - start for n, start in enumerate(self.starts)]


def joined(names: Sequence[str], parts: Sequence[Part], classes: Sequence[int]) -> Part:
    """One part of several: images of the first task, then those of the second, …, and so their classes.

    Args:
        classes: how many each task has.
    """
    pools = [part.pool for part in parts]
    starts = np.cumsum([0, *(len(pool.labels) for pool in pools)])
    first = np.cumsum([0, *classes])
    labels = np.concatenate([pool.labels + start for pool, start in zip(pools, first, strict=False)])
    images = Joined(tuple(names), tuple(pool.images for pool in pools), tuple(map(int, starts[:-1])))
    key = ("tasks", *names, *(pool.key for pool in pools))
    indices = [part.indices + start for part, start in zip(parts, starts, strict=False)]
    return Part(Pool(key, images, labels), np.concatenate(indices))


def shares(total: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """A number of images, shared among tasks: equal numbers, as far as each has so many and needs no more.

    Args:
        total: at least the sum of ``least``, and at most that of ``most``.
        least, most: images of each task.
    """

    def at(level: int) -> list[int]:
        return [min(high, max(low, level)) for low, high in zip(least, most, strict=True)]

    low, high = 0, max(most)
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if sum(at(level)) <= total else (low, level - 1)
    found, more = at(low), at(low + 1)
    for task in range(len(found)):
        if sum(found) < total and more[task] > found[task]:
            found[task] += 1
    return found
