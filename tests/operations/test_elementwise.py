"""Activations, scales and sums: what they keep and make, in the order that torch does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _one(op: Op, *inputs: Tensor, **parameters: Parameter) -> Tape:
    return Tape(inputs, parameters, (op,))


def _ten(name: str, dtype: str = "fp32") -> Tensor:
    return Tensor(name, (10,), name, dtype)


def _scale(dtype: str, trains: bool) -> Tape:
    op = Op("ls1", "scale", 0, ("x",), "y", {"gamma": "gamma"})
    gamma = Parameter("gamma", (5,), 0, trains=trains)
    return _one(op, Tensor("x", (2, 5), "x", dtype), gamma=gamma)


def test_a_scale_makes_both_products_before_it_sums_one(passes: Passes) -> None:
    assert passes(_scale("fp32", trains=True))[1] == [
        ("gradient 1 of x", 40),
        ("ls1:product", 40),
        ("gradient of gamma", 20),
        ("ls1:product", -40),
        ("gradient from above", -40),
        ("x", -40),
    ]


def test_a_scale_of_narrow_numbers_makes_both_products_wide_before_it_casts_one(passes: Passes) -> None:
    assert passes(_scale("bf16", trains=True))[1][:5] == [
        ("ls1:wide gradient", 40),
        ("ls1:product", 40),
        ("gradient 1 of x", 20),
        ("ls1:wide gradient", -40),
        ("gradient of gamma", 20),
    ]


def test_a_frozen_scale_makes_no_product_for_gamma(passes: Passes) -> None:
    assert passes(_scale("fp32", trains=False))[1] == [("gradient 1 of x", 40), ("gradient from above", -40)]


@pytest.mark.parametrize(("dtype", "made"), [("fp32", []), ("bf16", [("gradient 1 of y", 20)])])
def test_a_sum_copies_the_gradient_only_into_another_format(
    passes: Passes, dtype: str, made: Changes
) -> None:
    op = Op("blocks.0", "add", 0, ("x", "y"), "z")
    backward = passes(_one(op, _ten("x"), _ten("y", dtype)))[1]
    assert backward == made


def test_a_gated_mlp_lays_the_gradients_of_both_halves_together(passes: Passes) -> None:
    ops = (
        Op("mlp.act", "silu_half", 0, ("x",), "silu"),
        Op("mlp", "gate_half", 0, ("silu", "x"), "y"),
    )
    x = Tensor("x", (2, 6), "x")
    forward, backward = passes(Tape((x,), {}, ops))
    assert forward == [("silu", 24), ("y", 24)]
    assert backward == [
        ("gradient 1 of silu", 24),
        ("gradient of the gate in x", 24),
        ("gradient from above", -24),
        ("silu", -24),
        ("mlp.act:half gradient", 24),
        ("gradient 1 of silu", -24),
        ("x", -48),
        ("gradient 2 of x", 48),
        ("mlp.act:half gradient", -24),
        ("gradient of the gate in x", -24),
    ]
