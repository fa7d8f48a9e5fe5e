"""Copies that lie otherwise: what they take, and what their gradients do."""

from __future__ import annotations

from collections.abc import Callable

from bsr_explorer.cost.step import Recorded
from bsr_explorer.tape import Op, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _tape(kind: str) -> Tape:
    return Tape((Tensor("x", (2, 3, 5), "x"),), {}, (Op("lay", kind, 0, ("x",), "y"),))


def test_tokens_and_channels_change_places() -> None:
    assert _tape("swap").tensors["y"].shape == (2, 5, 3)
    assert _tape("by_token").tensors["y"].shape == (2, 3, 5)


def test_nothing_is_kept() -> None:
    for kind in ("swap", "by_token"):
        assert [*Recorded.of(_tape(kind), live_inputs=True).saved()] == []


def test_a_gradient_is_copied_back_or_handed_on(passes: Passes) -> None:
    assert [(name, size) for name, size in passes(_tape("swap"))[1] if size > 0] == [("gradient 1 of x", 120)]
    assert [name for name, size in passes(_tape("by_token"))[1] if size > 0] == []
