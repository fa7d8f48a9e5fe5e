"""The backward of one operation: what it allocates, adds and lets go of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bsr_explorer.storages import Narrow
from bsr_explorer.tape import Op, Parameter, Tape, Tensor
from tests.cost.conftest import alive

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _linear() -> Tape:
    """x (2, 3) → y (2, 4)."""
    parameters = {name: Parameter(name, shape, 0) for name, shape in (("w", (4, 3)), ("b", (4,)))}
    op = Op("fc", "linear", 0, ("x",), "y", {"weight": "w", "bias": "b"})
    return Tape((Tensor("x", (2, 3), "x"),), parameters, (op,))


def test_gradients_come_and_what_was_kept_goes(passes: Passes) -> None:
    assert passes(_linear())[1] == [
        ("gradient 1 of x", 24),
        ("gradient of w", 48),
        ("gradient of b", 16),
        ("gradient from above", -32),
        ("x", -24),
    ]


def test_where_gradients_stand_new_ones_are_added_and_let_go(passes: Passes) -> None:
    assert passes(_linear(), stand=True)[1] == [
        ("gradient 1 of x", 24),
        ("new gradient of w", 48),
        ("new gradient of b", 16),
        ("gradient from above", -32),
        ("x", -24),
        ("new gradient of w", -48),
        ("new gradient of b", -16),
    ]


@pytest.mark.parametrize("precise", [True, False])
def test_what_is_stored_in_16_bits_is_brought_back_for_its_operation(passes: Passes, precise: bool) -> None:
    tape = _linear()
    stored = {} if precise else {"x": Narrow("fp16")}
    _, backward = passes(replace(tape, ops=(replace(tape.ops[0], stored=stored),)))
    freed = [(name, change) for name, change in backward if change < 0]
    if precise:
        assert ("x", -24) in freed
    else:
        assert (f"x as {Narrow('fp16')}", -12) in freed
        assert alive(backward).keys() == {
            "gradient 1 of x",
            "gradient of w",
            "gradient of b",
            "gradient from above",
            f"x as {Narrow('fp16')}",
        }
