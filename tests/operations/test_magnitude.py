"""Outputs that are scaled to lengths: what is kept and made, in the order that the function does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.cost.step import Recorded, contexts
from bsr_explorer.operations.kinds import rule_of
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _tape(bias: bool = True) -> Tape:
    """z (1, 2, 5), behind a weight (5, 6)."""
    attrs = {"weight": (5, 6), "r": 3, "bias": bias}
    op = Op("fc", "magnitude", 0, ("z",), "y", {"magnitude": "m"}, attrs)
    return Tape((Tensor("z", (1, 2, 5), "z"),), {"m": Parameter("m", (5,), 0)}, (op,))


def test_the_summed_weight_is_given_back_in_the_forward_pass(passes: Passes) -> None:
    forward, _ = passes(_tape())
    assert forward[:3] == [("fc:weight", 120), ("fc:lengths", 20), ("fc:weight", -120)]
    assert dict(forward)["y"] == 40


def test_what_is_scaled_and_the_lengths_are_kept() -> None:
    assert [(name, size) for _, _, name, size in Recorded.of(_tape(), live_inputs=True).saved()] == [
        ("z", 40),
        ("fc:lengths", 20),
    ]


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_come_after_their_product_is_summed(passes: Passes, bias: bool) -> None:
    _, backward = passes(_tape(bias))
    made = [name for name, change in backward if change > 0]
    rest = ["fc:total of the gradient"] if bias else []
    assert made == ["fc:product", "fc:total", *rest, "gradient of m", "fc:quotients", "gradient 1 of z"]


def test_the_product_of_the_updates_matrices_is_counted() -> None:
    tape = _tape()
    (c,) = contexts(tape)
    assert rule_of(tape.ops[0]).forward(c) == 2 * 5 * 6 * 3
