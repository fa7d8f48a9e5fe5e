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
class Layout:
    """What a study may choose among: a grid, and configurations beside it.

    Attributes:
        bytes: of the grid by the study's accounting, (batch sizes, schedules, masks).
        masks: trained blocks, (masks, depth).
        schedules: keep rates by 0-based block, and whether the dropped tokens are fused.
        batch_sizes: images a step.
        rates: learning rates that each may be trained at: so many configurations have each of these bytes.
        beside: each once, whatever the rates.
        budget: bytes that the study allows.
    """

    bytes: NDArray[np.int64]
    masks: NDArray[np.bool_]
    schedules: Sequence[tuple[Sequence[tuple[int, float]], bool]]
    batch_sizes: Sequence[int]
    rates: int
    beside: Sequence[Beside]
    budget: int

    def __len__(self) -> int:
        return (self.bytes.size + len(self.beside)) * self.rates

    def to_dict(self, most: int = MOST_CHARACTERS) -> dict[str, Any]:
        """Plain values for a page.

        Args:
            most: characters that the grid's bytes may take.
        """
        said = {
            "size": len(self),
            "rates": self.rates,
            "depth": self.masks.shape[1],
            "batch_sizes": list(self.batch_sizes),
            "schedules": [[[list(drop) for drop in drops], fuse] for drops, fuse in self.schedules],
            "beside": [[each.method, each.batch_size, each.bytes] for each in self.beside],
            "least": int(self.bytes.min()),
            "most": int(self.bytes.max()),
        }
        packed = self._packed()
        exact = len(packed["bytes"]) + len(packed["masks"]) <= most
        return {**said, **(packed if exact else {"steps": self._steps()})}

    def _packed(self) -> dict[str, Any]:
        """All bytes, compressed: differences along schedules and masks of multiples of their greatest divisor,
        without a sign (0, -1, 1, -2, …), the lowest byte of all of them first; and one bit a block and mask."""
        above = self.bytes - self.bytes.min()
        unit = max(1, int(np.gcd.reduce(above, axis=None)))
        steps = np.diff(np.diff(above // unit, axis=1, prepend=0), axis=2, prepend=0).ravel()
        unsigned = np.where(steps < 0, -2 * steps - 1, 2 * steps).astype("<u8")
        width = max(1, -(-int(unsigned.max()).bit_length() // 8))
        planes = unsigned.view(np.uint8).reshape(-1, 8)[:, :width].T
        masks = np.packbits(self.masks, axis=1, bitorder="little").T
        return {"unit": unit, "bytes": _compressed(planes), "masks": _compressed(masks)}

    def _steps(self) -> dict[str, Any]:
        """How many configurations fit each of some budgets, by trained blocks, without and with token drops."""
        spread = np.geomspace(self.bytes.min(), self.bytes.max(), STEPS).round().astype(np.int64)
        # The ends are exact, and so is the study's own budget.
        ends = [int(self.bytes.min()), int(self.bytes.max()), self.budget]
        budgets = np.unique(np.concatenate([spread, ends]))
        trained = self.masks.sum(axis=1)
        drops = np.array([bool(keeps) for keeps, _ in self.schedules])
        counts: list[list[list[int]]] = []
        least: list[list[int | None]] = []
        for blocks in range(self.masks.shape[1] + 1):
            of_blocks = self.bytes[:, :, trained == blocks]
            sizes = [np.sort(of_blocks[:, drops == with_drops].ravel()) for with_drops in (False, True)]
            counts.append([np.searchsorted(each, budgets, side="right").tolist() for each in sizes])
            least.append([int(each[0]) if len(each) else None for each in sizes])
        return {"budgets": budgets.tolist(), "counts": counts, "least": least}


def _compressed(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()
