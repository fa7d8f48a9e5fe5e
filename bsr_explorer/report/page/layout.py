"""Every configuration that a study may choose, with its bytes, small enough to lie in a page."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CHARACTERS = 3_000_000
"""Characters that a layout may take in a page; one that takes more is told by counts at ``STEPS`` budgets."""

STEPS = 512
"""Budgets, evenly spread over the logarithm of memory, at which counts stand for a layout that is too large."""


@dataclass(frozen=True)
class Beside:
    """A configuration that is none of the grid's, such as linear probing."""

    method: str
    batch_size: int
    bytes: int


@dataclass(frozen=True)
class Part:
    """A grid.

    Attributes:
        bytes, masks, schedules: see ``Layout``.
        added: what stands behind each of its methods, such as ``+mesa(bits=8)``.
    """

    bytes: NDArray[np.int64]
    masks: NDArray[np.bool_]
    schedules: Sequence[tuple[Sequence[tuple[int, float]], bool]]
    added: str = ""

    def said(self) -> dict[str, Any]:
        """What its configurations are, as plain values."""
        drops = [[[list(drop) for drop in drops], fuse] for drops, fuse in self.schedules]
        return {"schedules": drops, **({"added": self.added} if self.added else {})}

    def packed(self) -> dict[str, Any]:
        """All bytes, compressed: differences along schedules and masks of multiples of their greatest divisor, above
        the least (``base``), without a sign (0, -1, 1, -2, …), the lowest byte of all of them first; and one bit a
        block and mask."""
        above = self.bytes - self.bytes.min()
        unit = max(1, int(np.gcd.reduce(above, axis=None)))
        steps = np.diff(np.diff(above // unit, axis=1, prepend=0), axis=2, prepend=0).ravel()
        unsigned = np.where(steps < 0, -2 * steps - 1, 2 * steps).astype("<u8")
        width = max(1, -(-int(unsigned.max()).bit_length() // 8))
        planes = unsigned.view(np.uint8).reshape(-1, 8)[:, :width].T
        masks = np.packbits(self.masks, axis=1, bitorder="little").T
        base = int(self.bytes.min())
        return {"base": base, "unit": unit, "bytes": _compressed(planes), "masks": _compressed(masks)}


@dataclass(frozen=True)
class Layout:
    """What a study may choose among: a grid, perhaps more of them, and configurations beside these.

    Attributes:
        bytes: of the grid by the study's accounting, (batch sizes, schedules, masks).
        masks: trained blocks, (masks, depth).
        schedules: keep rates by 0-based block, and whether the dropped tokens are fused.
        batch_sizes: images a step.
        rates: learning rates that each may be trained at: so many configurations have each of these bytes.
        beside: each once, whatever the rates.
        budget: bytes that the study allows.
        added: see ``Part``.
        more: other grids of the same batch sizes and rates.
    """

    bytes: NDArray[np.int64]
    masks: NDArray[np.bool_]
    schedules: Sequence[tuple[Sequence[tuple[int, float]], bool]]
    batch_sizes: Sequence[int]
    rates: int
    beside: Sequence[Beside]
    budget: int
    added: str = ""
    more: Sequence[Part] = ()

    @property
    def parts(self) -> list[Part]:
        """All grids."""
        return [Part(self.bytes, self.masks, self.schedules, self.added), *self.more]

    def __len__(self) -> int:
        return (sum(part.bytes.size for part in self.parts) + len(self.beside)) * self.rates

    def to_dict(self, most: int = MOST_CHARACTERS) -> dict[str, Any]:
        """Plain values for a page.

        Args:
            most: characters that the grid's bytes may take.
        """
        first, *more = self.parts
        said = {
            "size": len(self),
            "rates": self.rates,
            "depth": self.masks.shape[1],
            "batch_sizes": list(self.batch_sizes),
            **first.said(),
            "beside": [[each.method, each.batch_size, each.bytes] for each in self.beside],
            "least": min(int(part.bytes.min()) for part in self.parts),
            "most": max(int(part.bytes.max()) for part in self.parts),
        }
        packed = [part.packed() for part in self.parts]
        if sum(len(part["bytes"]) + len(part["masks"]) for part in packed) > most:
            return {**said, "steps": self._steps()}
        others = [{**part.said(), **how} for part, how in zip(more, packed[1:], strict=True)]
        return {**said, **packed[0], **({"more": others} if others else {})}

    def _steps(self) -> dict[str, Any]:
        """How many configurations fit each of some budgets, by trained blocks, without and with token drops."""
        low = min(int(part.bytes.min()) for part in self.parts)
        high = max(int(part.bytes.max()) for part in self.parts)
        spread = np.geomspace(low, high, STEPS).round().astype(np.int64)
        # The ends are exact, and so is the study's own budget.
        budgets = np.unique(np.concatenate([spread, [low, high, self.budget]]))
        counts: list[list[list[int]]] = []
        least: list[list[int | None]] = []
        for blocks in range(self.masks.shape[1] + 1):
            sizes = [np.sort(self._of(blocks, with_drops)) for with_drops in (False, True)]
            counts.append([np.searchsorted(each, budgets, side="right").tolist() for each in sizes])
            least.append([int(each[0]) if len(each) else None for each in sizes])
        return {"budgets": budgets.tolist(), "counts": counts, "least": least}

    def _of(self, blocks: int, with_drops: bool) -> NDArray[np.int64]:
        """Bytes of all configurations in which so many blocks train."""
        found = []
        for part in self.parts:
            drops = np.array([bool(keeps) for keeps, _ in part.schedules])
            of_blocks = part.bytes[:, :, part.masks.sum(axis=1) == blocks]
            found.append(of_blocks[:, drops == with_drops].ravel())
        return np.concatenate(found)


def _compressed(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()
