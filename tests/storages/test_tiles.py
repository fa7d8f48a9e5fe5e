"""Tiles: each element is read once, and groups are those that torch's path makes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.storages import tiles
from bsr_explorer.storages.tiles import Groups, groups_of, sparse_scratch

SIZES = st.integers(1, 10**6)


@given(SIZES, st.integers(1, 2000), SIZES)
def test_programs_read_all_of_a_group_and_none_reads_nothing(outer: int, count: int, inner: int) -> None:
    groups = Groups(outer, count, inner)
    each, whole = (groups.rows_each, outer) if groups.by_columns else (tiles.CHUNK, inner)
    assert (groups.shares - 1) * each < whole <= groups.shares * each
    if groups.by_columns:
        assert groups.shares <= tiles.SHARES
        assert groups.rows_each % tiles.TALL == 0


@given(SIZES)
def test_tiles_hold_a_piece(elements: int) -> None:
    assert (tiles.tiles(elements) - 1) * tiles.PIECE < elements <= tiles.tiles(elements) * tiles.PIECE
    assert tiles.PIECE % 8 == 0
    assert tiles.PIECE < 2**16
    assert sparse_scratch(3, elements) == 3 * (2 + 2 * tiles.tiles(elements))


@pytest.mark.parametrize(("count", "axis"), [(1, -1), (1, 1), (2, -1), (6, -1), (5, 1)])
def test_a_groups_elements_are_those_of_torch(count: int, axis: int) -> None:
    shape = (3, 5, 6)
    groups = groups_of(shape, count, axis)
    assert groups.outer * groups.count * groups.inner == math.prod(shape)
    of_each = torch.arange(90) // groups.inner % groups.count
    x = of_each.view(shape).unflatten(axis, (count, -1))
    expected = torch.arange(count).view(count, *[1] * (x.dim() - 1 - (2 if axis == -1 else 1)))
    assert bool((x == expected).all())
