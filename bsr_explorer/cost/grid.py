"""The costs of a whole space at once: sums over a small table.

A block's cost depends only on its tokens in, its keep rate, whether it trains and whether a gradient
arrives from below it, so each such case is read off a tape of one block, once. Every configuration is
then a sum of table entries, and millions of them are one matrix product. The scalar path
(``predict``) and this one use the same tapes and rules, and agree to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bsr_explorer import pareto
from bsr_explorer.cost.entries import (
    BACKWARD,
    FORWARD,
    PUBLISHED,
    SAVED,
    Counts,
    Runs,
    Schedule,
    costs_by_batch,
    input_bytes_of,
    rounded_to_blocks,
    standing_bytes,
    states_of_blocks,
    whole_tape,
)
from bsr_explorer.cost.timeline import made_of_the_loss
from bsr_explorer.models.base import Geometry as AnyGeometry
from bsr_explorer.models.vit.geometry import Geometry


def all_masks(depth: int) -> NDArray[np.bool_]:
    """Every subset of blocks, (2^depth, depth); row i holds the bits of i, block 0 the lowest."""
    return (np.arange(2**depth)[:, None] >> np.arange(depth) & 1).astype(bool)


@dataclass(frozen=True)
class Grid:
    """Costs of every combination; arrays are (batch sizes, schedules, masks).

    A configuration trains the blocks of its mask, the final norm and the head (as ``bsr`` does).

    Attributes:
        masks: trained blocks, (masks, depth).
        schedules: token drops.
        batch_sizes: images a step.
        saved_bytes, peak_bytes, published_bytes: bytes by each accounting; the peak is that of the tensors. (On a GPU
            the allocator counts somewhat more, and reserves more: there it is the least that either can be.)
        forward_flops, train_flops: FLOPs, 2 per multiply-add.
        context_bytes: what a process holds on a GPU beside (see ``Device.context``).
    """

    masks: NDArray[np.bool_]
    schedules: tuple[Schedule, ...]
    batch_sizes: tuple[int, ...]
    saved_bytes: Counts
    peak_bytes: Counts
    published_bytes: Counts
    forward_flops: Counts
    train_flops: Counts
    context_bytes: int = 0

    def __len__(self) -> int:
        return int(self.saved_bytes.size)

    def bytes(self, counts: str) -> Counts:
        """Bytes by the accounting of a budget: ``peak``, ``saved``, ``published``; of ``reserved`` and ``device``
        the least."""
        return {
            "peak": self.peak_bytes,
            "saved": self.saved_bytes,
            "published": self.published_bytes,
            "reserved": self.peak_bytes,
            "device": self.peak_bytes + self.context_bytes,
        }[counts]

    def blocks(self, mask: int) -> tuple[int, ...]:
        """The trained blocks of a mask's row, 0-based."""
        return tuple(int(block) for block in np.flatnonzero(self.masks[mask]))

    def front(self, counts: str = "peak", budget: int | None = None) -> list[tuple[int, int, int]]:
        """The configurations that no other beats in both memory and training FLOPs, cheapest first.

        Returns:
            Indices (batch size, schedule, mask), of those within the budget, if one is given.
        """
        size, flops = self.bytes(counts).ravel(), self.train_flops.ravel()
        within = np.arange(size.size) if budget is None else np.flatnonzero(size <= budget)
        ahead = within[pareto.front(size[within], flops[within])]
        batches, schedules, masks = np.unravel_index(ahead, self.saved_bytes.shape)
        return list(zip(batches.tolist(), schedules.tolist(), masks.tolist(), strict=True))


def grid(
    geometry: AnyGeometry,
    masks: NDArray[np.bool_],
    schedules: Sequence[Schedule],
    batch_sizes: Sequence[int],
    runs: Runs | None = None,
) -> Grid:
    """Costs of every mask × schedule × batch size.

    Args:
        masks: trained blocks, (masks, depth).
        schedules: see ``schedule``.
        batch_sizes: images a step; each passes in ``runs.setup.micro_batches`` parts.

    Raises:
        TypeError: of another architecture than plain vision transformers.
    """
    if not isinstance(geometry, Geometry):
        raise TypeError(f"the grid lays out plain vision transformers, and {geometry!r} is none")
    runs = runs or Runs()
    parts = runs.setup.micro_batches
    states = states_of_blocks(masks)
    each = [costs_by_batch(geometry, masks, states, schedules, batch // parts, runs) for batch in batch_sizes]
    sums = np.stack([costs for costs, _ in each], axis=1)  # (columns, batch sizes, schedules, masks)
    whole = whole_tape(geometry, 1, runs)
    standing, gradients, paper, stepping = standing_bytes(geometry, whole, masks, runs)
    inputs = np.array([input_bytes_of(geometry, batch, runs) for batch in batch_sizes])[:, None, None]
    heights = np.stack([heights for _, heights in each], axis=1)  # (2, batch sizes, schedules, masks)
    heights[1] += sum(rounded_to_blocks(size, runs) for size in made_of_the_loss(whole, runs.setup).values())
    stand = gradients if runs.setup.gradients_stand else 0
    highest = np.maximum(heights.max(axis=0) + stand, gradients + stepping)
    return Grid(
        masks,
        tuple(schedules),
        tuple(batch_sizes),
        saved_bytes=sums[SAVED],
        peak_bytes=highest + standing + inputs,
        published_bytes=sums[PUBLISHED] * np.array(batch_sizes)[:, None, None] + paper,
        forward_flops=sums[FORWARD] * parts,
        train_flops=(sums[FORWARD] + sums[BACKWARD]) * parts,
        context_bytes=runs.setup.on.context,
    )
