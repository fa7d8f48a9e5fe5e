"""Products with weights, and casts: gradients in the order that torch makes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
