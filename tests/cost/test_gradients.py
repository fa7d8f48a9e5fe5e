"""Gradients that arrive at a tensor are added up, in place where nobody else sees one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.cost.gradients import Gradients
from bsr_explorer.cost.holders import Memory
from bsr_explorer.tape import Op, Parameter, Tape, Tensor
from tests.cost.conftest import chain

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def test_a_gradient_that_arrives_is_added_in_place(passes: Passes) -> None:
    """x + gelu(x): the gradient from above stands for both summands', and then for x's."""
    ops = (Op("a", "gelu", 0, ("x",), "y"), Op("", "add", 0, ("x", "y"), "z"))
    assert passes(Tape((Tensor("x", (10,), "x"),), {}, ops))[1] == [
        ("gradient 1 of x", 40),
        ("x", -40),
        ("gradient 1 of x", -40),
    ]


def test_gradients_that_others_see_are_not_added_in_place(passes: Passes) -> None:
    """(x + y) + (x + z): every summand's gradient is the one from above."""
    ops = (
        Op("a", "add", 0, ("x", "y"), "a"),
        Op("b", "add", 0, ("x", "z"), "b"),
        Op("c", "add", 0, ("a", "b"), "c"),
    )
    assert passes(Tape(tuple(Tensor(name, (10,), name) for name in "xyz"), {}, ops))[1] == [
        ("gradient 1 of x", 40)
    ]


@pytest.mark.parametrize(
    ("seen", "stays", "added"),
    [
        ((), "gradient 1 of x", 0),
        (("gradient 1 of x",), "gradient 2 of x", 0),
        (("gradient 1 of x", "gradient 2 of x"), "gradient 3 of x", 40),
    ],
)
def test_a_sum_goes_into_whichever_nobody_else_sees(seen: tuple[str, ...], stays: str, added: int) -> None:
    memory = Memory()
    gradients = Gradients(chain("a"), memory, stand=False)
    first, second = gradients.new_buffer("x"), gradients.new_buffer("x")
    for name in seen:
        memory.hold(name)
    gradients.arrive("x", first)
    assert gradients.arrived == {"x": first}
    before = len(memory.events)
    gradients.arrive("x", second)
    assert gradients.arrived == {"x": stays}
    assert memory.holders(stays) == 1 + (stays in seen)
    assert sum(event.change for event in memory.events[before:] if event.change > 0) == added


@pytest.mark.parametrize(
    ("views", "stays", "added"),
    [
        ((True, False), "gradient 2 of x", 0),
        ((False, True), "gradient 1 of x", 0),
        ((True, True), "gradient 3 of x", 40),
    ],
)
def test_nothing_is_added_into_a_view_which_its_base_holds(
    views: tuple[bool, bool], stays: str, added: int
) -> None:
    memory = Memory()
    gradients = Gradients(chain("a"), memory, stand=False)
    first, second = (gradients.new_buffer("x", view) for view in views)
    gradients.arrive("x", first)
    before = len(memory.events)
    gradients.arrive("x", second)
    assert gradients.arrived == {"x": stays}
    assert sum(event.change for event in memory.events[before:] if event.change > 0) == added


def test_two_linear_layers_of_one_tensor_of_tokens_need_a_third_gradient(passes: Passes) -> None:
    """Of rows, without tokens, they do not."""
    names = ("a", "b")
    parameters = {name: Parameter(name, (5, 5), 0, trains=False) for name in names}
    ops = (
        *(Op(name, "linear", 0, ("x",), f"{name}.out", {"weight": name}) for name in names),
        Op("", "add", 0, ("a.out", "b.out"), "z"),
    )
    for shape, third in (((1, 2, 5), ["gradient 3 of x"]), ((2, 5), [])):
        backward = passes(Tape((Tensor("x", shape, "x"),), parameters, ops))[1]
        assert [name for name, change in backward if change > 0] == [
            "gradient 1 of x",
            "gradient 2 of x",
            *third,
        ]
