"""Data sets that are made of others: their images, and what is to be said of each (see ``expression.MADE``)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bsr_explorer.data.cells import Encoded
from bsr_explorer.data.expression import MADE, QUARTERS
from bsr_explorer.data.images import Part
from bsr_explorer.data.pool import Images, Pool


@dataclass(frozen=True)
class Changed:
    """Images that are made of others when they are asked for.

    Attributes:
        name: key of ``MADE``.
        sources: (N, n) positions of those that each is made of.
        labels: (N,) what is done with them.
    """

    name: str
    base: Images
    sources: NDArray[np.intp]
    labels: NDArray[np.int64]

    def __getitem__(self, index: int) -> Image.Image:
        given = [self.base[int(source)] for source in self.sources[index]]
        return _CHANGES[self.name](given, int(self.labels[index]))

    def fingerprint(self, indices: NDArray[np.intp]) -> bytes:
        """Equal for equal images, in this order."""
        found = hashlib.sha256(self.name.encode())
        found.update(self.base.fingerprint(self.sources[indices].ravel()))
        found.update(np.ascontiguousarray(self.labels[indices]).data)
        return found.digest()

    def files(self, indices: Sequence[int] | NDArray[np.intp] | None = None) -> dict[Encoded, str]:
        """Those of what they are made of."""
        return self.base.files(None if indices is None else self.sources[np.asarray(indices)].ravel())


def made(name: str, part: Part, seed: int) -> Part:
    """A part of a data set that is made of the same part of another, so that no image of one is in another.

    Args:
        name: key of ``MADE``.
        seed: of what is left to chance.
    """
    pool = part.pool
    if name == "sums":
        order = np.random.default_rng(seed).permutation(len(part))
        sources = np.stack([part.indices, part.indices[order]], axis=1)
        labels = part.labels + part.labels[order]
        key = (name, pool.key, part.indices.tobytes(), seed)
        images = Changed(name, pool.images, sources, labels)
        return Part(Pool(key, images, labels), np.arange(len(part)))
    count = len(MADE[name].classes(0))
    labels = np.random.default_rng(seed).integers(count, size=len(pool.labels))
    images = Changed(name, pool.images, np.arange(len(pool.labels))[:, None], labels)
    return Part(Pool((name, pool.key, seed), images, labels), part.indices)


def _turned(given: Sequence[Image.Image], label: int) -> Image.Image:
    """By so many quarter turns, against the clock."""
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    turn = turns[label]
    return given[0] if turn is None else given[0].transpose(turn)


def _swapped(given: Sequence[Image.Image], label: int) -> Image.Image:
    """With a pair of quarters swapped; of an odd side, the middle stays."""
    image = given[0]
    if not label:
        return image
    width, height = image.width // 2, image.height // 2
    corners = [(x, y) for y in (0, image.height - height) for x in (0, image.width - width)]
    changed = image.copy()
    here, there = (corners[quarter - 1] for quarter in QUARTERS[label - 1])
    for to, (x, y) in ((here, there), (there, here)):
        changed.paste(image.crop((x, y, x + width, y + height)), to)
    return changed


def _side_by_side(given: Sequence[Image.Image], label: int) -> Image.Image:
    """Two images next to each other, on a black square."""
    side = sum(image.width for image in given)
    canvas, left = Image.new("RGB", (side, side)), 0
    for image in given:
        canvas.paste(image, (left, (side - image.height) // 2))
        left += image.width
    return canvas


_CHANGES = {"turned": _turned, "swapped": _swapped, "sums": _side_by_side}
assert _CHANGES.keys() == MADE.keys()
