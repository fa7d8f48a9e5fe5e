"""Patches pooled two by two, and laid back: shapes, and what is made on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.cost.step import Recorded
from bsr_explorer.operations.patches import halved
from bsr_explorer.tape import Op, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _tape(kind: str, tokens: int, prefix: int, side: int) -> Tape:
    op = Op("op", kind, 0, ("x",), "y", attrs={"prefix": prefix, "side": side})
    return Tape((Tensor("x", (2, tokens, 5), "x"),), {}, (op,))


def test_half_of_a_grid_has_the_odd_row_too() -> None:
    assert [halved(side) for side in range(1, 8)] == [1, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize(("prefix", "side"), [(0, 2), (1, 3), (5, 4)])
def test_pooled_and_spread_is_as_before(prefix: int, side: int) -> None:
    pooled = _tape("pool_patches", prefix + side * side, prefix, side).tensors["y"]
    assert pooled.shape == (2, halved(side) ** 2, 5)
    spread = _tape("spread_patches", pooled.shape[1], prefix, side).tensors["y"]
    assert spread.shape == (2, prefix + side * side, 5)


@pytest.mark.parametrize("kind", ["pool_patches", "spread_patches"])
def test_nothing_is_kept_and_nothing_multiplied(kind: str) -> None:
    recorded = Recorded.of(_tape(kind, 10, 1, 3), live_inputs=True)
    assert not list(recorded.saved())
    assert not any(count for _, _, count in recorded.computed())


@pytest.mark.parametrize("prefix", [0, 2])
def test_tokens_before_the_patches_get_a_mean_of_their_own(passes: Passes, prefix: int) -> None:
    forward, backward = passes(_tape("spread_patches", 4, prefix, 3))
    token = 4 * 2 * 5
    assert [(name, size) for name, size in forward if name.startswith("op:")] == (
        [("op:mean", token), ("op:mean", -token)] if prefix else []
    )
    assert [(name, size) for name, size in backward if name.startswith("op:")] == (
        [("op:sum", token), ("op:sum", -token)] if prefix else []
    )
