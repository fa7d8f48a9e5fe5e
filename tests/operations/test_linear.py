"""Products with weights: gradients in the order that torch makes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.cost.step import Recorded, activation_rows, contexts, saved
from bsr_explorer.ledger import Row
from bsr_explorer.operations.kinds import rule_of
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _fc(weight: bool, bias: bool) -> Tape:
    """x (2, 3) → y (2, 4)."""
    parameters = {"w": Parameter("w", (4, 3), 0, trains=weight), "b": Parameter("b", (4,), 0, trains=bias)}
    op = Op("fc", "linear", 0, ("x",), "y", {"weight": "w", "bias": "b"})
    return Tape((Tensor("x", (2, 3), "x"),), parameters, (op,))


@pytest.mark.parametrize(
    ("weight", "bias", "live", "made"),
    [
        (True, True, True, ["gradient 1 of x", "gradient of w", "gradient of b"]),
        (True, True, False, ["gradient of w", "gradient of b"]),
        (False, True, False, ["gradient of b"]),
        (False, False, True, ["gradient 1 of x"]),
        (False, False, False, []),
    ],
)
def test_only_what_is_wanted_gets_a_gradient(
    passes: Passes, weight: bool, bias: bool, live: bool, made: list[str]
) -> None:
    assert [name for name, change in passes(_fc(weight, bias), live)[1] if change > 0] == made


def _patches(weight: bool) -> Tape:
    """One image of 3 x 8 x 8 as 4 patches of 4 x 4, 5 wide."""
    parameters = {
        "w": Parameter("w", (5, 3, 4, 4), None, trains=weight),
        "b": Parameter("b", (5,), None),
    }
    op = Op("patch_embed.proj", "patch_embed", None, ("images",), "y", {"weight": "w", "bias": "b"})
    return Tape((Tensor("images", (1, 3, 8, 8), "images", role="input"),), parameters, (op,))


def test_a_convolution_makes_its_weights_gradient_wanted_or_not(passes: Passes) -> None:
    size = 5 * 3 * 4 * 4 * 4
    assert passes(_patches(weight=True))[1] == [
        ("gradient of w", size),
        ("gradient of b", 20),
        ("gradient from above", -80),
    ]
    assert passes(_patches(weight=False))[1] == [
        ("gradient of b", 20),
        ("patch_embed.proj:unwanted gradient", size),
        ("patch_embed.proj:unwanted gradient", -size),
        ("gradient from above", -80),
    ]


def _linear(weight: bool, bias: bool, live: bool) -> set[str]:
    """What a Linear layer keeps of x (2, 3)."""
    parameters = {
        "w": Parameter("w", (4, 3), None, trains=weight),
        "b": Parameter("b", (4,), None, trains=bias),
    }
    op = Op("fc", "linear", None, ("x",), "y", {"weight": "w", "bias": "b"})
    return {storage for _, _, storage, _ in saved(Tape((Tensor("x", (2, 3), "x"),), parameters, (op,)), live)}


def test_a_linear_layer_keeps_its_input_only_for_its_weight() -> None:
    assert _linear(weight=True, bias=False, live=False) == {"x"}
    assert _linear(weight=False, bias=True, live=False) == set()
    assert _linear(weight=False, bias=False, live=True) == set()


@pytest.mark.parametrize(
    ("weight", "live", "backward"),
    [(True, True, 96), (True, False, 48), (False, True, 48), (False, False, 0)],
)
def test_a_linear_backward_is_a_product_for_the_weight_and_one_for_the_input(
    weight: bool, live: bool, backward: int
) -> None:
    parameters = {"w": Parameter("w", (4, 3), None, trains=weight)}
    tape = Tape(
        (Tensor("x", (2, 3), "x"),), parameters, (Op("fc", "linear", None, ("x",), "y", {"weight": "w"}),)
    )
    rows = list(activation_rows(Recorded.of(tape, live)))
    assert Row(None, "fc", "forward", flops=48) in rows
    assert Row(None, "fc", "backward", flops=backward) in rows


# --- a part of whose weight trains ----------------------------------------------------------------------


def _partial(part: str, shape: tuple[int, int]) -> Tape:
    """x (1, 2, 6) → y (1, 2, 5)."""
    parameters = {"w": Parameter("w", (5, 6), 0, trains=False), part: Parameter(part, shape, 0)}
    op = Op("fc", "partial_linear", 0, ("x",), "y", {"weight": "w", part: part})
    return Tape((Tensor("x", (1, 2, 6), "x"),), parameters, (op,))


def test_columns_keep_the_channels_that_they_read(passes: Passes) -> None:
    forward, backward = passes(_partial("columns", (5, 3)))
    assert forward == [("y", 40), ("fc:selected", 24), ("x", -48)]
    assert backward == [
        ("gradient of columns", 60),
        ("gradient 1 of x", 48),
        ("gradient from above", -40),
        ("fc:selected", -24),
    ]


def test_rows_lay_their_outputs_gradients_side_by_side(passes: Passes) -> None:
    forward, backward = passes(_partial("rows", (3, 6)))
    assert forward == [("y", 40)]
    assert backward == [
        ("fc:outputs", 24),
        ("gradient of rows", 72),
        ("fc:outputs", -24),
        ("gradient 1 of x", 48),
        ("gradient from above", -40),
        ("x", -48),
    ]


def test_only_their_share_of_the_weights_gradient_is_computed() -> None:
    for part, shape in (("columns", (5, 3)), ("rows", (3, 6))):
        tape = _partial(part, shape)
        (below,) = contexts(tape, live_inputs=True)
        (lowest,) = contexts(tape)
        rule = rule_of(tape.ops[0])
        own = 2 * 2 * shape[0] * shape[1]
        assert (rule.backward(lowest), rule.backward(below)) == (own, own + 2 * 2 * 30)
