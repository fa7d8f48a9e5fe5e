"""Casts: they and their gradients are copies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def test_a_cast_and_its_gradient_are_copies_in_their_own_formats(passes: Passes) -> None:
    op = Op("fc", "cast", 0, ("x",), "y", attrs={"dtype": "bf16"})
    forward, backward = passes(Tape((Tensor("x", (10,), "x"),), {}, (op,)))
    assert forward == [("y", 20), ("x", -40)]
    assert backward == [("gradient 1 of x", 40), ("gradient from above", -20)]


@pytest.mark.parametrize("stand", [False, True])
def test_the_gradient_of_a_copy_of_a_weight_is_cast_to_the_weights(passes: Passes, stand: bool) -> None:
    cast = Op("fc", "cast_parameter", 0, (), "w in bf16", {"value": "w"}, {"dtype": "bf16"})
    product = Op("fc", "linear", 0, ("x",), "y", {"weight": "w in bf16"})
    x = Tensor("x", (2, 3), "x", "bf16")
    tape = Tape((x,), {"w": Parameter("w", (4, 3), 0)}, (cast, product))
    backward = passes(tape, live=False, stand=stand)[1]
    gradient = "new gradient of w" if stand else "gradient of w"
    assert backward[0] == ("gradient 1 of w in bf16", 24)
    assert backward.index((gradient, 48)) < backward.index(("gradient 1 of w in bf16", -24))
    assert ((gradient, -48) in backward) == stand
