"""The grid against the scalar path, exactly, and its front against brute force."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.cost import published
from bsr_explorer.cost.entries import Runs, Schedule, schedule
from bsr_explorer.cost.grid import Grid, all_masks, grid
from bsr_explorer.cost.optimizers import IMPLEMENTATIONS, OPTIMIZERS
from bsr_explorer.cost.peak import find_peak, step_ledger
from bsr_explorer.cost.setup import Setup
from bsr_explorer.cost.step import Recorded
from bsr_explorer.cost.timeline import timeline
from bsr_explorer.ledger import Ledger
from bsr_explorer.methods import Bsr
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.reading import geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.tape import Tape

MODELS = [("deit_t", 64), ("vit_small_patch14_reg4_dinov2", 56)]
DEPTH = 5
BATCHES = (2, 6)


@lru_cache
def _full(model: Geometry, batch: int, attention: str) -> Tape:
    return step_tape(model, batch, attention)


def _scalar(
    model: Geometry, blocks: tuple[int, ...], drops: Schedule, batch: int, runs: Runs
) -> tuple[Ledger, int]:
    """The ledger and the published bytes of one configuration, off its own tape."""
    method = Bsr(blocks, dict(drops[0]), drops[1])
    tape = method.rewrite(_full(model, batch // runs.setup.micro_batches, runs.attention))
    paper = published.total_bytes(method.rewrite(_full(model, batch, runs.attention)))
    lowered = runs.lowered(tape)
    step = step_ledger(lowered, runs.setup)
    tensors = find_peak(timeline(Recorded.of(lowered), runs.setup)).bytes
    if runs.setup.on.caches:  # the allocator counts more than what was asked of it
        assert tensors <= step.peak_bytes <= step.reserved_bytes
    else:
        assert tensors == step.peak_bytes
    return replace(step, peak_bytes=tensors), paper


every_way = st.builds(
    Runs,
    st.sampled_from(["fused", "math"]),
    st.sampled_from(list(PRECISIONS)),
    st.builds(
        Setup,
        st.sampled_from(list(OPTIMIZERS)),
        st.sampled_from(IMPLEMENTATIONS),
        st.sampled_from(["cpu", "cuda"]),
        st.sampled_from([1, 2]),
        st.booleans(),
        st.booleans(),
    ),
)
"""Attention paths, number formats, optimisers, devices, micro-batches, gradients given back or not."""


schedules = st.builds(
    schedule,
    st.dictionaries(st.integers(0, DEPTH - 1), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.95, 1.0]), max_size=4),
    st.booleans(),
)


@pytest.mark.parametrize(("name", "image_size"), MODELS)
@settings(max_examples=12)
@given(
    masks=st.lists(st.lists(st.booleans(), min_size=DEPTH, max_size=DEPTH), min_size=1, max_size=3),
    drops=st.lists(schedules, min_size=1, max_size=2),
    runs=every_way,
)
def test_the_grid_is_the_scalar_path(
    name: str, image_size: int, masks: list[list[bool]], drops: list[Schedule], runs: Runs
) -> None:
    model = replace(geometry(name, image_size), depth=DEPTH)
    costs = grid(model, np.array(masks), drops, BATCHES, runs)
    assert costs.saved_bytes.shape == (2, len(drops), len(masks))
    for b, s, m in np.ndindex(costs.saved_bytes.shape):
        step, paper = _scalar(model, costs.blocks(m), drops[s], BATCHES[b], runs)
        assert costs.saved_bytes[b, s, m] == step.saved_bytes
        assert costs.peak_bytes[b, s, m] == step.peak_bytes
        assert costs.forward_flops[b, s, m] == step.forward_flops
        assert costs.train_flops[b, s, m] == step.train_flops
        assert costs.published_bytes[b, s, m] == paper


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": 48},
        {"mlp": "swiglu", "layer_scale": True},
        {"pool": "avg", "final_norm": "none"},
        {"pool": "avg", "final_norm": "fc_norm", "class_token": False, "embed_prefix": False},
        {"embed_prefix": False, "pre_norm": True, "heads": 1},
    ],
    ids=lambda changes: ",".join(changes),
)
@settings(max_examples=6)
@given(runs=every_way)
def test_the_grid_is_the_scalar_path_for_every_geometry(changes: dict[str, Any], runs: Runs) -> None:
    tiny = replace(geometry("deit_t", 32), depth=3, width=24, hidden=96, heads=3, num_classes=5)
    model = replace(tiny, **changes)
    drops = [schedule({}, False), schedule({1: 0.5}, True)][: 1 + model.class_token]
    costs = grid(model, all_masks(3), drops, (2,), runs)
    for b, s, m in np.ndindex(costs.peak_bytes.shape):
        step, _ = _scalar(model, costs.blocks(m), drops[s], 2, runs)
        assert costs.saved_bytes[b, s, m] == step.saved_bytes
        assert costs.peak_bytes[b, s, m] == step.peak_bytes
        assert costs.train_flops[b, s, m] == step.train_flops


def test_an_optimisers_loop_holds_as_much_for_three_blocks_as_for_two() -> None:
    """Its peak is between the last weight of a narrow block and the first of the next."""
    narrow = replace(geometry("deit_t", 32), depth=3, hidden=2 * 192)
    runs = Runs(setup=Setup("adamw", "loop"))
    costs = grid(narrow, np.tri(4, 3, -1, dtype=bool), [schedule({}, False)], (1,), runs)
    for m in (2, 3):
        step, _ = _scalar(narrow, tuple(range(m)), schedule({}, False), 1, runs)
        assert step.peak is not None
        assert (step.peak.phase, costs.peak_bytes[0, 0, m]) == ("optimizer", step.peak_bytes)


def test_where_no_block_trains_the_head_and_norm_do() -> None:
    model = geometry("deit_t", 64)
    costs = grid(model, np.zeros((1, 12), bool), [schedule({3: 0.5}, True)], [4])
    step, paper = _scalar(model, (), schedule({3: 0.5}, True), 4, Runs())
    assert costs.saved_bytes.item() == step.saved_bytes
    assert costs.train_flops.item() == step.train_flops
    assert costs.published_bytes.item() == paper


def test_a_grid_of_no_masks_is_empty() -> None:
    costs = grid(geometry("deit_t", 64), np.zeros((0, 12), bool), [schedule({}, False)], [1])
    assert len(costs) == 0
    assert costs.front() == []


def test_all_masks_are_the_binary_numbers() -> None:
    assert all_masks(2).tolist() == [[False, False], [True, False], [False, True], [True, True]]
    assert len(np.unique(all_masks(6), axis=0)) == 64


def test_trained_blocks_are_named_by_index() -> None:
    costs = grid(geometry("deit_t", 64), np.eye(12, dtype=bool)[[11, 1]], [schedule({}, False)], [1])
    assert [costs.blocks(0), costs.blocks(1)] == [(11,), (1,)]


def _with(memory: list[int], flops: list[int]) -> Grid:
    """A grid of these costs, along batch sizes and masks."""
    shape = (2, 1, len(memory) // 2)
    size, work = np.array(memory).reshape(shape), np.array(flops).reshape(shape)
    masks = np.zeros((shape[2], 12), bool)
    return Grid(masks, (schedule({}, False),), (1, 2), size + 1, size, size + 2, work, work)


@given(
    costs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=16).filter(
        lambda costs: len(costs) % 2 == 0
    ),
    budget=st.none() | st.integers(0, 9),
)
def test_the_front_is_what_nothing_beats(costs: list[tuple[int, int]], budget: int | None) -> None:
    whole = _with([memory for memory, _ in costs], [flops for _, flops in costs])
    points = {cost for cost in costs if budget is None or cost[0] <= budget}
    expected = sorted(
        (memory, flops)
        for memory, flops in points
        if not any(m <= memory and f <= flops and (m, f) != (memory, flops) for m, f in points)
    )
    front = whole.front("peak", budget)
    assert [(whole.peak_bytes[i], whole.train_flops[i]) for i in front] == expected


@pytest.mark.parametrize(("counts", "memory"), [("saved", 4), ("peak", 3), ("published", 5)])
def test_a_front_is_of_the_bytes_that_a_budget_counts(counts: str, memory: int) -> None:
    costs = _with([3, 9], [1, 2])
    assert costs.front(counts, budget=memory) == [(0, 0, 0)]
    assert costs.front(counts, budget=memory - 1) == []
