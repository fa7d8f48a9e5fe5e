"""The costs of a block's entries in the grid: one table for each geometry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.cost import published
from bsr_explorer.cost.frames import Frames
from bsr_explorer.cost.holders import Memory
from bsr_explorer.cost.passes import Pass
from bsr_explorer.cost.peak import levels
from bsr_explorer.cost.setup import Setup
from bsr_explorer.cost.step import Recorded
from bsr_explorer.cost.timeline import optimizer_peak, standing, standing_rows
from bsr_explorer.models.base import Selection
from bsr_explorer.models.lowering import lower
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.step import block_tape, drop_tokens, stem_tape, step_tape, tail_tape
from bsr_explorer.operations.kinds import kind_of
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


Rewrite = Callable[[Tape, bool], Tape]
"""Of blocks of a step, given whether a gradient arrives below them."""


@dataclass(frozen=True)
class Runs:
    """How every configuration of a grid is run: see ``Config`` for the words.

    Attributes:
        rewrites: what else changes a block, whichever of them train and drop tokens, in order. Each must change a block
            by what stands in the block alone.
    """

    attention: str = "fused"
    precision: str = "fp32"
    setup: Setup = field(default_factory=Setup)
    rewrites: tuple[Rewrite, ...] = ()

    def lowered(self, tape: Tape) -> Tape:
        """A part of a step outside of its blocks, as it is run."""
        return lower(tape, self.precision, self.setup.device)

    def of_blocks(self, tape: Tape, live: bool) -> Tape:
        """A step or a block of it, with or without a gradient below it, as it is run."""
        for rewrite in self.rewrites:
            tape = rewrite(tape, live)
        return self.lowered(tape)


def input_bytes_of(geometry: Geometry, batch: int, runs: Runs) -> int:
    rows = standing_rows(whole_tape(geometry, batch // runs.setup.micro_batches, runs), runs.setup)
    return sum(rounded_to_blocks(row.bytes, runs) for row in rows if row.kind == "input")


def whole_tape(geometry: Geometry, batch: int, runs: Runs) -> Tape:
    return runs.of_blocks(step_tape(geometry, batch, runs.attention), live=False)


def states_of_blocks(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """State of each block, (masks, depth): 2 · (a gradient arrives from below) + (trains)."""
    below = np.cumsum(masks, axis=1) - masks > 0
    return (2 * below + masks).astype(np.int64)


def costs_by_batch(
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
            keep = rates.get(block, 1.0)
            entry, tokens = _block_entry(geometry, batch, tokens, keep, fuse and keep < 1, runs)
            table.append(entry)
        tables.append(table)
        tails.append(_tail(geometry, batch, tokens, runs))
    blocks = np.array(tables)  # (schedules, depth, states, columns)
    ends = np.array(tails)  # (schedules, without and with a gradient below, columns)
    live = masks.any(axis=1).astype(int)
    outside = stem[None, None] + ends
    weights = np.concatenate(
        [part[..., :LEVEL].reshape(len(schedules), -1, LEVEL) for part in (blocks, outside)], axis=1
    ).transpose(2, 0, 1)  # (columns, schedules, 4 states of each block and 2 of what is outside)
    assert blocks[..., :LEVEL].sum(axis=1).max() + outside.max() < _EXACT
    one_hot = [
        (states[..., None] == np.arange(4)).reshape(len(masks), 4 * geometry.depth),
        live[:, None] == np.arange(2),
    ]
    which = np.ascontiguousarray(np.concatenate(one_hot, axis=1).T, dtype=np.float64)
    sums = np.ascontiguousarray(weights, dtype=np.float64) @ which
    up, down = _branches(states), _branches(states[:, ::-1])
    heights = [
        _heights(blocks[some : some + _AT_ONCE], ends[some : some + _AT_ONCE], stem, live, up, down)
        for some in range(0, len(schedules), _AT_ONCE)
    ]
    return sums.astype(np.int64), np.concatenate(heights, axis=1)


_AT_ONCE = 32
"""Schedules whose heights are followed at once, so that they stay in the processor's cache."""


class _Branches(NamedTuple):
    """Rows of states as a tree: rows that begin alike share their first nodes.

    Attributes:
        steps: for each block, every node's parent among the nodes before it, and its state.
        leaves: for each row, its last node.
    """

    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    leaves: NDArray[np.int64]


def _branches(states: NDArray[np.int64]) -> _Branches:
    """The tree of (masks, depth) states, from the first column on."""
    steps, node = [], np.zeros(len(states), np.int64)
    for state in states.T:
        nodes, node = np.unique(4 * node + state, return_inverse=True)
        steps.append((nodes // 4, nodes % 4))
    return _Branches(steps, node)


def _heights(
    blocks: NDArray[np.int64],
    ends: NDArray[np.int64],
    stem: NDArray[np.int64],
    live: NDArray[np.int64],
    up: _Branches,
    down: _Branches,
) -> Counts:
    """How high the forward and the backward pass go: (2, schedules, masks). Masks whose first blocks are alike share
    their way up, and those whose last blocks are alike their way down."""
    columns = np.ascontiguousarray(blocks.transpose(3, 1, 2, 0))  # (columns, depth, states, schedules)
    at_end = np.ascontiguousarray(
        ends.transpose(2, 1, 0)
    )  # (columns, without and with a gradient below, schedules)
    root = np.zeros((1, len(blocks)), np.int64)

    level, high, fed, cached = root + stem[LEVEL], root + stem[HIGH], root, root + stem[CACHED]
    for block, (parents, state) in enumerate(up.steps):
        level, high, cached = level[parents], high[parents], cached[parents]
        np.maximum(high, level + columns[HIGH, block][state], out=high)
        fed = columns[FED, block][state] if block == 0 else fed[parents]
        if block == 0:
            level += fed  # held by the caller of all blocks until they return
        level += columns[LEVEL, block][state]
        cached += columns[CACHED, block][state]
    level, forward, cached = (level - fed)[up.leaves], high[up.leaves], cached[up.leaves]
    np.maximum(forward, level + at_end[HIGH][live], out=forward)
    level += (at_end[LEVEL] - at_end[CACHED])[live] - cached

    below, high = root, root + np.iinfo(np.int64).min
    for block, (parents, state) in zip(reversed(range(columns.shape[1])), down.steps, strict=True):
        below, high = below[parents], high[parents]
        np.maximum(high, below + columns[BACK_HIGH, block][state], out=high)
        below += columns[BACK_LEVEL, block][state]
    backward = level + np.maximum(at_end[BACK_HIGH][live], at_end[BACK_LEVEL][live] + high[down.leaves])
    return np.stack([forward.T, backward.T])


@lru_cache(maxsize=4096)
def _block_entry(
    geometry: Geometry, batch: int, tokens: int, keep: float, fuse: bool, runs: Runs
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """The table's four rows for a block of so many tokens, and the tokens that leave it."""
    tape = block_tape(geometry, batch, tokens, runs.attention)
    if keep < 1:
        tape = drop_tokens(tape, 0, Selection(keep, fuse, faithful=fuse))
    trainings = (tape.train_only(lambda p: False), tape)
    rows = []
    for live in (False, True):
        if not live or runs.rewrites:  # without a rewrite, a tape is run in one way whatever is below it
            parts = [(part, Frames(part, "blocks")) for part in (runs.of_blocks(t, live) for t in trainings)]
        for trains, (part, frames) in enumerate(parts):
            activations = published.block_activation_bytes(tape, 0, bool(trains), live)
            recorded = Recorded.of(part, live)
            rows.append((*_sums(recorded), activations, *_profile(recorded, frames, runs)))
    return tuple(rows), tape.tensors[tape.ops[-1].writes].shape[1]


@lru_cache(maxsize=1024)
def _stem(geometry: Geometry, batch: int, runs: Runs) -> tuple[int, ...]:
    """Columns of what stands before the blocks, and does not train."""
    recorded = Recorded.of(runs.lowered(stem_tape(geometry, batch).train_only(lambda p: False)))
    return (*_sums(recorded), 0, *_profile(recorded, Frames(recorded.tape), runs))


@lru_cache(maxsize=4096)
def _tail(geometry: Geometry, batch: int, tokens: int, runs: Runs) -> tuple[tuple[int, ...], ...]:
    """Columns of what stands after the blocks, without and with a gradient that goes on below it."""
    tape = tail_tape(geometry, batch, tokens)
    activations = published.tail_activation_bytes(tape)
    part = runs.lowered(tape)
    frames, both = Frames(part), [Recorded.of(part, live) for live in (False, True)]
    return tuple((*_sums(recorded), activations, *_profile(recorded, frames, runs)) for recorded in both)


def _sums(recorded: Recorded) -> tuple[int, int, int]:
    """Saved bytes, FLOPs forward, FLOPs backward of a part of a step."""
    flops = {True: 0, False: 0}
    for _, kind, count in recorded.computed():
        flops[kind == "forward"] += count
    return sum(size for *_, size in recorded.saved()), flops[True], flops[False]


def _profile(recorded: Recorded, frames: Frames, runs: Runs) -> tuple[int, ...]:
    """The columns from ``LEVEL`` on of a part of a step."""
    tape, memory = recorded.tape, Memory(runs.setup.on.granularity)
    run = Pass(recorded, memory, frames, runs.setup.gradients_stand)
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
    if run.contexts[-1].live:
        if kind_of(tape.ops[-1]).is_loss:
            run.begin_backward()
        else:
            run.feed_gradient()
        run.backward()
        back = levels(memory.events)
    return level, high, *back, cached, let_go


def standing_bytes(
    geometry: Geometry, whole: Tape, masks: NDArray[np.bool_], runs: Runs
) -> tuple[Counts, Counts, Counts, Counts]:
    """By mask: bytes of parameters and optimiser state; of gradients; of published parameters; and what the
    optimiser's step allocates at most."""
    tail = set(tail_tape(geometry, 1, 1).parameters)

    def sizes(blocks: int) -> tuple[int, int, int, int]:
        trained = set(range(blocks))
        tape = whole.train_only(lambda p: p.name in tail or p.block in trained)
        tensors = [*standing(tape, runs.setup)]
        rounded = {
            kind: sum(rounded_to_blocks(size, runs) for _, of, size in tensors if of == kind)
            for kind in _STANDING
        }
        stepping = optimizer_peak([p for p in tape.parameters.values() if p.trains], runs.setup)
        held = rounded["parameter"] + rounded["optimizer"] + runs.setup.on.workspace
        return held, rounded["gradient"], published.parameter_bytes(tape), stepping

    by_count = np.array([sizes(blocks) for blocks in range(geometry.depth + 1)])  # blocks are all alike
    held, gradients, paper, stepping = by_count[masks.sum(axis=1)].T
    return held, gradients, paper, stepping


_STANDING = ("parameter", "gradient", "optimizer")


def rounded_to_blocks(size: int, runs: Runs) -> int:
    return runs.setup.on.rounded(size)
