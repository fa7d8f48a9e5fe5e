"""LayerNorm: what it keeps and makes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.cost.step import saved
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _one(op: Op, *inputs: Tensor, **parameters: Parameter) -> Tape:
    return Tape(inputs, parameters, (op,))


@pytest.mark.parametrize(("dtype", "attrs", "size"), [("fp32", {}, 40), ("bf16", {"statistics": "fp32"}, 40)])
def test_a_norms_statistics_may_be_wider_than_what_is_normed(
    passes: Passes, dtype: str, attrs: dict[str, str], size: int
) -> None:
    op = Op("norm", "layer_norm", 0, ("x",), "y", {"weight": "w"}, attrs)
    weight = Parameter("w", (3,), 0, dtype=dtype)
    forward, _ = passes(_one(op, Tensor("x", (2, 5, 3), "x", dtype), w=weight))
    assert dict(forward) == {
        "y": 2 * 5 * 3 * (4 if dtype == "fp32" else 2),
        "norm:mean": size,
        "norm:rstd": size,
    }


def test_without_a_graph_statistics_are_let_go_at_once(passes: Passes) -> None:
    op = Op("norm", "layer_norm", 0, ("x",), "y")
    assert passes(_one(op, Tensor("x", (5, 3), "x")), live=False)[0] == [
        ("y", 60),
        ("norm:mean", 20),
        ("norm:rstd", 20),
        ("norm:mean", -20),
        ("norm:rstd", -20),
        ("x", -60),
    ]


def test_a_frozen_norm_keeps_its_input_once_a_gradient_passes() -> None:
    parameters = {"w": Parameter("w", (3,), None, trains=False)}
    op = Op("norm", "layer_norm", None, ("x",), "y", {"weight": "w"})
    tape = Tape((Tensor("x", (2, 5, 3), "x"),), parameters, (op,))
    assert {(storage, size) for _, _, storage, size in saved(tape, live_inputs=True)} == {
        ("x", 2 * 5 * 3 * 4),
        ("norm:mean", 2 * 5 * 4),
        ("norm:rstd", 2 * 5 * 4),
    }
    assert list(saved(tape)) == []
