"""The costs of a whole space at once: sums over a small table.

A block's cost depends only on its tokens in, its keep rate, whether it trains and whether a gradient
arrives from below it, so each such case is read off a tape of one block, once. Every configuration is
then a sum of table entries, and millions of them are one matrix product. The scalar path
(``predict``) and this one use the same tapes and rules, and agree to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.cost import published
from bsr_explorer.cost.step import activation_rows, input_rows, parameter_rows
from bsr_explorer.models.geometry import Geometry
from bsr_explorer.models.vit import block_tape, drop_tokens, stem_tape, step_tape, tail_tape
from bsr_explorer.tape import Tape

Counts = NDArray[np.int64]
Schedule = tuple[tuple[tuple[int, float], ...], bool]
"""Keep rates by 0-based block, sorted, and whether the dropped tokens are fused."""

SAVED, FORWARD, BACKWARD, PUBLISHED = range(4)
"""Columns of the table: saved bytes, FLOPs forward and backward, published activation bytes an image."""

_EXACT = 2**53
"""Below this, sums of whole numbers in double precision are exact."""


def schedule(keep: Mapping[int, float], fuse: bool) -> Schedule:
    """The canonical schedule: keep rates below 1 in order, fusing only where something is dropped."""
    drops = tuple((block, rate) for block, rate in sorted(keep.items()) if rate < 1)
    return drops, fuse and bool(drops)


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
        saved_bytes, held_bytes, published_bytes: bytes by each accounting.
        forward_flops, train_flops: FLOPs, 2 per multiply-add.
    """

    masks: NDArray[np.bool_]
    schedules: tuple[Schedule, ...]
    batch_sizes: tuple[int, ...]
    saved_bytes: Counts
    held_bytes: Counts
    published_bytes: Counts
    forward_flops: Counts
    train_flops: Counts

    def __len__(self) -> int:
        return int(self.saved_bytes.size)

    def bytes(self, counts: str) -> Counts:
        """Bytes by the accounting of a budget: ``peak`` (held bytes), ``saved`` or ``published``."""
        return {"peak": self.held_bytes, "saved": self.saved_bytes, "published": self.published_bytes}[counts]

    def blocks(self, mask: int) -> tuple[int, ...]:
        """The trained blocks of a mask's row, 0-based."""
        return tuple(int(block) for block in np.flatnonzero(self.masks[mask]))

    def front(self, counts: str = "peak", budget: int | None = None) -> list[tuple[int, int, int]]:
        """The configurations that no other beats in both memory and training FLOPs, cheapest first.

        Returns:
            Indices (batch size, schedule, mask), of those within the budget, if one is given.
        """
        size, flops = self.bytes(counts).ravel(), self.train_flops.ravel()
        candidates = np.arange(size.size) if budget is None else np.flatnonzero(size <= budget)
        order = candidates[np.lexsort((flops[candidates], size[candidates]))]
        best = np.minimum.accumulate(flops[order]) if len(order) else flops[:0]
        ahead = np.r_[True, best[1:] < best[:-1]] if len(order) else np.zeros(0, bool)
        shape = self.saved_bytes.shape
        return [tuple(int(i) for i in np.unravel_index(i, shape)) for i in order[ahead]]  # type: ignore[misc]


def grid(
    geometry: Geometry,
    masks: NDArray[np.bool_],
    schedules: Sequence[Schedule],
    batch_sizes: Sequence[int],
    attention: str = "fused",
    optimizer: str = "adamw",
) -> Grid:
    """Costs of every mask × schedule × batch size.

    Args:
        masks: trained blocks, (masks, depth).
        schedules: see ``schedule``.
    """
    states, live = _states(masks), masks.any(axis=1).astype(int)
    sums = np.stack(
        [_costs(geometry, states, live, schedules, batch, attention) for batch in batch_sizes], axis=1
    )  # (columns, batch sizes, schedules, masks)
    standing, paper = _standing(geometry, masks, optimizer)
    inputs = [sum(row.bytes for row in input_rows(step_tape(geometry, b, attention))) for b in batch_sizes]
    return Grid(
        masks,
        tuple(schedules),
        tuple(batch_sizes),
        saved_bytes=sums[SAVED],
        held_bytes=sums[SAVED] + standing + np.array(inputs)[:, None, None],
        published_bytes=sums[PUBLISHED] * np.array(batch_sizes)[:, None, None] + paper,
        forward_flops=sums[FORWARD],
        train_flops=sums[FORWARD] + sums[BACKWARD],
    )


def _states(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One-hot state of each block, (depth · 4, masks): 2 · (a gradient arrives from below) + (trains)."""
    count, depth = masks.shape
    below = np.cumsum(masks, axis=1) - masks > 0
    state = 2 * below + masks
    one_hot = (state[..., None] == np.arange(4)).reshape(count, depth * 4)
    return np.ascontiguousarray(one_hot.T, dtype=np.float64)


def _costs(
    geometry: Geometry,
    states: NDArray[np.float64],
    live: NDArray[np.int64],
    schedules: Sequence[Schedule],
    batch: int,
    attention: str,
) -> Counts:
    """(columns, schedules, masks) for one batch size."""
    tables, ends = [], []
    for drops, fuse in schedules:
        rates, tokens, table = dict(drops), geometry.tokens, []
        for block in range(geometry.depth):
            entry, tokens = _block_entry(geometry, batch, tokens, attention, rates.get(block, 1.0), fuse)
            table.append(entry)
        tables.append(table)
        stem, tails = _ends(geometry, batch, tokens, attention)
        ends.append([[s + t for s, t in zip(stem, tail, strict=True)] for tail in tails])
    weights = np.array(tables, dtype=np.float64).reshape(len(schedules), -1, 4).transpose(2, 0, 1)
    assert np.abs(weights).sum(axis=2).max() < _EXACT
    outside: Counts = np.array(ends).transpose(2, 0, 1)  # (columns, schedules, without and with a gradient)
    blocks: Counts = (weights @ states).astype(np.int64)
    return blocks + outside[:, :, live]


@lru_cache(maxsize=4096)
def _block_entry(
    geometry: Geometry, batch: int, tokens: int, attention: str, keep: float, fuse: bool
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """The table's four rows for a block of so many tokens, and the tokens that leave it."""
    tape = block_tape(geometry, batch, tokens, attention)
    if keep < 1:
        tape = drop_tokens(tape, 0, keep, fuse)
    frozen = tape.train_only(lambda p: False)
    rows = []
    for live in (False, True):
        for trains in (False, True):
            activations = published.block_activation_bytes(tape, 0, trains, live)
            rows.append((*_sums(tape if trains else frozen, live), activations))
    return tuple(rows), tape.tensors[tape.ops[-1].writes].shape[1]


@lru_cache(maxsize=4096)
def _ends(
    geometry: Geometry, batch: int, tokens: int, attention: str
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Columns of the stem, and of the tail without and with a gradient that goes on below it."""
    stem = (*_sums(stem_tape(geometry, batch).train_only(lambda p: False), False), 0)
    tail = tail_tape(geometry, batch, tokens)
    activations = published.tail_activation_bytes(tail)
    return stem, tuple((*_sums(tail, live), activations) for live in (False, True))


def _sums(tape: Tape, live: bool) -> tuple[int, int, int]:
    """Saved bytes, FLOPs forward, FLOPs backward of a part of a step."""
    rows = list(activation_rows(tape, live))
    return (
        sum(row.bytes for row in rows),
        sum(row.flops for row in rows if row.kind == "forward"),
        sum(row.flops for row in rows if row.kind == "backward"),
    )


def _standing(geometry: Geometry, masks: NDArray[np.bool_], optimizer: str) -> tuple[Counts, Counts]:
    """By mask: bytes of parameters, gradients and optimiser state; and of published parameters."""
    whole = step_tape(geometry, 1, "fused")
    tail = set(tail_tape(geometry, 1, 1).parameters)

    def sizes(tape: Tape) -> tuple[int, int]:
        return sum(row.bytes for row in parameter_rows(tape, optimizer)), published.parameter_bytes(tape)

    base = sizes(whole.train_only(lambda p: p.name in tail))
    one_block = sizes(whole.train_only(lambda p: p.name in tail or p.block == 0))
    trained = masks.sum(axis=1)
    held, paper = (b + trained * (o - b) for b, o in zip(base, one_block, strict=True))
    return held, paper
