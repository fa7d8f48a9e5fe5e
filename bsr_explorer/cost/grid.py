"""The costs of a whole space at once: sums over a small table.

A block's cost depends only on its tokens in, its keep rate, whether it trains and whether a gradient
arrives from below it, so each such case is read off a tape of one block, once. Every configuration is
then a sum of table entries, and millions of them are one matrix product. The scalar path
(``predict``) and this one use the same tapes and rules, and agree to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.cost import published
from bsr_explorer.cost.memory import Memory, Pass
from bsr_explorer.cost.peak import (
    Setup,
    device_bytes,
    levels,
    made_of_the_loss,
    optimizer_peak,
    standing_rows,
)
from bsr_explorer.cost.step import activation_rows
from bsr_explorer.models.geometry import Geometry
from bsr_explorer.models.lowering import lower
from bsr_explorer.models.vit import block_tape, drop_tokens, stem_tape, step_tape, tail_tape
from bsr_explorer.tape import Tape

Counts = NDArray[np.int64]
Schedule = tuple[tuple[tuple[int, float], ...], bool]
"""Keep rates by 0-based block, sorted, and whether the dropped tokens are fused (as the authors of BSR do)."""

SAVED, FORWARD, BACKWARD, PUBLISHED = range(4)
"""Columns of the table that add up: saved bytes, FLOPs forward and backward, published activation bytes an
image."""

LEVEL, HIGH, BACK_LEVEL, BACK_HIGH, CACHED, FED = range(4, 10)
"""Columns that make the peak. By how much the memory is fuller after a part's forward pass than before it,
and how high it goes on the way; the same of its backward pass; copies of weights that autocast holds until
the whole forward pass is over; what the part was fed with, if nothing but the first caller holds it."""

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
        saved_bytes, peak_bytes, published_bytes: bytes by each accounting.
        forward_flops, train_flops: FLOPs, 2 per multiply-add.
    """

    masks: NDArray[np.bool_]
    schedules: tuple[Schedule, ...]
    batch_sizes: tuple[int, ...]
    saved_bytes: Counts
    peak_bytes: Counts
    published_bytes: Counts
    forward_flops: Counts
    train_flops: Counts

    def __len__(self) -> int:
        return int(self.saved_bytes.size)

    def bytes(self, counts: str) -> Counts:
        """Bytes by the accounting of a budget: ``peak``, ``saved`` or ``published``."""
        return {"peak": self.peak_bytes, "saved": self.saved_bytes, "published": self.published_bytes}[counts]

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


@dataclass(frozen=True)
class Runs:
    """How every configuration of a grid is run: see ``Config`` for the words."""

    attention: str = "fused"
    precision: str = "fp32"
    setup: Setup = field(default_factory=Setup)

    def lowered(self, tape: Tape) -> Tape:
        """A tape, or a part of one, as it is run."""
        return lower(tape, self.precision, self.setup.device)


def grid(
    geometry: Geometry,
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
    """
    runs = runs or Runs()
    parts = runs.setup.micro_batches
    states = _states(masks)
    each = [_costs(geometry, masks, states, schedules, batch // parts, runs) for batch in batch_sizes]
    sums = np.stack([costs for costs, _ in each], axis=1)  # (columns, batch sizes, schedules, masks)
    whole = _whole(geometry, 1, runs)
    standing, gradients, paper, stepping = _standing(geometry, whole, masks, runs)
    inputs = np.array([_inputs(geometry, batch, runs) for batch in batch_sizes])[:, None, None]
    heights = np.stack([heights for _, heights in each], axis=1)  # (2, batch sizes, schedules, masks)
    heights[1] += sum(_rounded(size, runs) for size in made_of_the_loss(whole, runs.setup).values())
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
    )


def _inputs(geometry: Geometry, batch: int, runs: Runs) -> int:
    rows = standing_rows(_whole(geometry, batch // runs.setup.micro_batches, runs), runs.setup)
    return sum(_rounded(row.bytes, runs) for row in rows if row.kind == "input")


def _whole(geometry: Geometry, batch: int, runs: Runs) -> Tape:
    return runs.lowered(step_tape(geometry, batch, runs.attention))


def _states(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """State of each block, (masks, depth): 2 · (a gradient arrives from below) + (trains)."""
    below = np.cumsum(masks, axis=1) - masks > 0
    return (2 * below + masks).astype(np.int64)


def _costs(
    geometry: Geometry,
    masks: NDArray[np.bool_],
    states: NDArray[np.int64],
    schedules: Sequence[Schedule],
    batch: int,
    runs: Runs,
) -> tuple[Counts, Counts]:
    """For one batch size: the columns that add up, (4, schedules, masks); and how high the forward and the
    backward pass go above what stands, (2, schedules, masks)."""
    tables, tails = [], []
    stem = np.array(_stem(geometry, batch, runs))
    for drops, fuse in schedules:
        rates, tokens, table = dict(drops), geometry.tokens, []
        for block in range(geometry.depth):
            entry, tokens = _block_entry(geometry, batch, tokens, rates.get(block, 1.0), fuse, runs)
            table.append(entry)
        tables.append(table)
        tails.append(_tail(geometry, batch, tokens, runs))
    blocks = np.array(tables)  # (schedules, depth, states, columns)
    ends = np.array(tails)  # (schedules, without and with a gradient below, columns)
    live = masks.any(axis=1).astype(int)
    weights = blocks[..., :LEVEL].astype(np.float64)
    assert weights.sum(axis=1).max() < _EXACT
    one_hot = (states[..., None] == np.arange(4)).reshape(len(masks), 4 * geometry.depth).T.astype(np.float64)
    added = weights.reshape(len(schedules), -1, LEVEL).transpose(2, 0, 1) @ np.ascontiguousarray(one_hot)
    outside = (stem[None, None] + ends)[..., :LEVEL].transpose(2, 0, 1)  # (columns, schedules, live)
    return added.astype(np.int64) + outside[:, :, live], np.concatenate(
        [
            _heights(blocks[some : some + _AT_ONCE], ends[some : some + _AT_ONCE], stem, states, live)
            for some in range(0, len(schedules), _AT_ONCE)
        ],
        axis=1,
    )


_AT_ONCE = 16
"""Schedules whose heights are followed at once, so that they stay in the processor's cache."""


def _heights(
    blocks: NDArray[np.int64],
    ends: NDArray[np.int64],
    stem: NDArray[np.int64],
    states: NDArray[np.int64],
    live: NDArray[np.int64],
) -> Counts:
    """How high the forward and the backward pass go, block by block: (2, schedules, masks)."""
    columns = np.ascontiguousarray(blocks.transpose(3, 1, 0, 2))  # (columns, depth, schedules, states)

    def of(column: int, block: int) -> NDArray[np.int64]:
        return np.take(columns[column, block], states[:, block], axis=1)  # (schedules, masks)

    depth = states.shape[1]
    level = np.full((len(blocks), len(states)), stem[LEVEL])
    forward = np.full_like(level, stem[HIGH])
    until_end = np.full_like(level, stem[CACHED])
    fed = of(FED, 0)  # held by the caller of all blocks until they return
    cached = bool(blocks[..., CACHED].any())
    for block in range(depth):
        np.maximum(forward, level + of(HIGH, block), out=forward)
        level += of(LEVEL, block)
        if block == 0:
            level += fed
        if cached:
            until_end += of(CACHED, block)
    level -= fed
    np.maximum(forward, level + ends[:, live, HIGH], out=forward)
    level += ends[:, live, LEVEL] - until_end - ends[:, live, CACHED]
    backward = level + ends[:, live, BACK_HIGH]
    level += ends[:, live, BACK_LEVEL]
    for block in reversed(range(depth)):
        np.maximum(backward, level + of(BACK_HIGH, block), out=backward)
        level += of(BACK_LEVEL, block)
    return np.stack([forward, backward])


@lru_cache(maxsize=4096)
def _block_entry(
    geometry: Geometry, batch: int, tokens: int, keep: float, fuse: bool, runs: Runs
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """The table's four rows for a block of so many tokens, and the tokens that leave it."""
    tape = block_tape(geometry, batch, tokens, runs.attention)
    if keep < 1:
        tape = drop_tokens(tape, 0, keep, fuse, faithful=fuse)
    frozen = tape.train_only(lambda p: False)
    rows = []
    for live in (False, True):
        for trains in (False, True):
            activations = published.block_activation_bytes(tape, 0, trains, live)
            part = runs.lowered(tape if trains else frozen)
            rows.append((*_sums(part, live), activations, *_profile(part, live, "blocks", runs)))
    return tuple(rows), tape.tensors[tape.ops[-1].writes].shape[1]


@lru_cache(maxsize=1024)
def _stem(geometry: Geometry, batch: int, runs: Runs) -> tuple[int, ...]:
    """Columns of what stands before the blocks, and does not train."""
    tape = runs.lowered(stem_tape(geometry, batch).train_only(lambda p: False))
    return (*_sums(tape, False), 0, *_profile(tape, False, "", runs))


@lru_cache(maxsize=4096)
def _tail(geometry: Geometry, batch: int, tokens: int, runs: Runs) -> tuple[tuple[int, ...], ...]:
    """Columns of what stands after the blocks, without and with a gradient that goes on below it."""
    tape = tail_tape(geometry, batch, tokens)
    activations = published.tail_activation_bytes(tape)
    part = runs.lowered(tape)
    return tuple((*_sums(part, live), activations, *_profile(part, live, "", runs)) for live in (False, True))


def _sums(tape: Tape, live: bool) -> tuple[int, int, int]:
    """Saved bytes, FLOPs forward, FLOPs backward of a part of a step."""
    rows = list(activation_rows(tape, live))
    return (
        sum(row.bytes for row in rows),
        sum(row.flops for row in rows if row.kind == "forward"),
        sum(row.flops for row in rows if row.kind != "forward"),
    )


def _profile(tape: Tape, live: bool, fed_at: str, runs: Runs) -> tuple[int, ...]:
    """The columns from ``LEVEL`` on of a part of a step."""
    memory = Memory(runs.setup.granularity)
    run = Pass(tape, memory, live, fed_at, runs.setup.gradients_stand)
    fed = [tensor for tensor in tape.inputs if tensor.role == "activation"]
    for tensor in tape.inputs:
        memory.found(tensor.name, tensor.bytes)
    run.forward(to_the_end=False)
    level, high = levels(memory.events)
    let_go = sum(memory.size(tensor.name) for tensor in fed if not memory.holders(tensor.name))
    cached = sum(memory.size(name) for name in run.until_end if memory.holders(name) == 1)
    memory.drop(*run.until_end)
    memory.events.clear()
    back = (0, 0)
    if run.needs[tape.ops[-1].writes]:
        if tape.ops[-1].kind == "cross_entropy":
            run.begin_backward()
        else:
            run.feed_gradient()
        run.backward()
        back = levels(memory.events)
    return level, high, *back, cached, let_go


def _standing(
    geometry: Geometry, whole: Tape, masks: NDArray[np.bool_], runs: Runs
) -> tuple[Counts, Counts, Counts, Counts]:
    """By mask: bytes of parameters and optimiser state; of gradients; of published parameters; and what the
    optimiser's step allocates at most."""
    tail = set(tail_tape(geometry, 1, 1).parameters)

    def sizes(blocks: int) -> tuple[int, int, int, int]:
        trained = set(range(blocks))
        tape = whole.train_only(lambda p: p.name in tail or p.block in trained)
        rows = [row for row in standing_rows(tape, runs.setup) if row.kind != "input"]
        rounded = {kind: sum(_rounded(r.bytes, runs) for r in rows if r.kind == kind) for kind in _STANDING}
        stepping = optimizer_peak([p for p in tape.parameters.values() if p.trains], runs.setup)
        held = rounded["parameter"] + rounded["optimizer"] + device_bytes(runs.setup)
        return held, rounded["gradient"], published.parameter_bytes(tape), stepping

    by_count = np.array([sizes(blocks) for blocks in range(geometry.depth + 1)])  # blocks are all alike
    held, gradients, paper, stepping = by_count[masks.sum(axis=1)].T
    return held, gradients, paper, stepping


_STANDING = ("parameter", "gradient", "optimizer")


def _rounded(size: int, runs: Runs) -> int:
    granularity = runs.setup.granularity
    return -(-size // granularity) * granularity
