"""What a rule is made of: its defaults, and how it changes where an operation packs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.operations.rule import Rule
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def test_by_default_an_operation_makes_its_result_and_gives_every_gradient(passes: Passes) -> None:
    """A cast says nothing of its own."""
    op = Op("", "cast", None, ("x",), "y")
    forward, backward = passes(Tape((Tensor("x", (6,), "x"),), {}, (op,)))
    assert forward == [("y", 24), ("x", -24)]
    assert backward == [("gradient 1 of x", 24), ("gradient from above", -24)]


def test_a_view_makes_nothing(passes: Passes) -> None:
    forward, _ = passes(
        Tape((Tensor("x", (2, 5, 3), "x"),), {}, (Op("", "select_token", None, ("x",), "y"),))
    )
    assert all(change < 0 for _, change in forward)


@pytest.mark.parametrize("weight", [True, False])
def test_what_is_detached_keeps_nothing_and_gives_nothing(passes: Passes, weight: bool) -> None:
    op = Op("fc", "linear", 0, ("x",), "y", {"weight": "w"}, {"detached": True})
    parameters = {"w": Parameter("w", (4, 3), 0, trains=weight)}
    forward, backward = passes(Tape((Tensor("x", (2, 3), "x"),), parameters, (op,)))
    assert (forward, backward) == ([("y", 32), ("x", -24)], [])


def test_packing_changes_what_is_said_and_no_more() -> None:
    plain = Rule(forward=lambda c: 7, several_nodes=lambda c: True)
    packed = plain.packed(backward=lambda c: 9)
    assert packed.forward is plain.forward
    assert packed.keeps is plain.keeps
    assert packed.backward is not plain.backward
    assert (packed.unpacks, packed.keeps_results) == (True, True)
    assert packed.several_nodes is not plain.several_nodes
