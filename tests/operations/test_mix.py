"""A mean of two tensors: what is kept, and made on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.cost.step import Recorded
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _tape(trains: bool = True, dtype: str = "fp32") -> Tape:
    """x and y (2, 5) → their mean, by a gate in 32 bits."""
    inputs = tuple(Tensor(name, (2, 5), name, dtype) for name in ("x", "y"))
    op = Op("gate", "mix", 0, ("x", "y"), "mean", {"gate": "g"})
    return Tape(inputs, {"g": Parameter("g", (1,), 0, trains)}, (op,))


def test_the_difference_is_kept_for_a_gate_that_trains() -> None:
    assert [(name, size) for _, _, name, size in Recorded.of(_tape(), live_inputs=True).saved()] == [
        ("gate:difference", 40)
    ]
    assert [*Recorded.of(_tape(trains=False), live_inputs=True).saved()] == []


def test_the_mean_has_the_number_format_of_what_is_mixed() -> None:
    assert _tape(dtype="bf16").tensors["mean"].dtype == "bf16"


@pytest.mark.parametrize(("dtype", "sizes"), [("fp32", [40, 4, 40]), ("bf16", [20, 4, 2, 20])])
def test_a_share_in_another_format_is_cast(passes: Passes, dtype: str, sizes: list[int]) -> None:
    forward, _ = passes(_tape(dtype=dtype))
    assert [change for _, change in forward if change > 0] == sizes


def test_the_gates_gradient_comes_first(passes: Passes) -> None:
    _, backward = passes(_tape())
    made = [name for name, change in backward if change > 0]
    gate = ["gate:product", "gate:sum", "gate:share", "gradient of g"]
    assert made == [*gate, "gate:share", "gradient 1 of x", "gradient 2 of y"]
