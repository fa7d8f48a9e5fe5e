"""The loss: what it keeps and makes."""

from __future__ import annotations

from collections.abc import Callable

from bsr_explorer.tape import Op, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def test_a_loss_keeps_log_probabilities_and_a_weight(passes: Passes) -> None:
    op = Op("loss", "cross_entropy", None, ("x", "labels"), "y")
    inputs = (Tensor("x", (2, 5), "x"), Tensor("labels", (2,), "labels", "int64", role="input"))
    forward, backward = passes(Tape(inputs, {}, (op,)))
    assert forward == [("loss:log_softmax", 40), ("y", 4), ("loss:total_weight", 4), ("x", -40)]
    assert backward == [
        ("loss:gradient of log_softmax", 40),
        ("gradient from above", -4),
        ("loss:total_weight", -4),
        ("gradient 1 of x", 40),
        ("loss:gradient of log_softmax", -40),
        ("loss:log_softmax", -40),
    ]
