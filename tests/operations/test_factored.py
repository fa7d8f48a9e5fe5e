"""Products with two factors: what is kept, computed and allocated."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.cost.step import Recorded
from bsr_explorer.storages import Tucker
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""

PACKING = Tucker((2, 3, 4))
SHAPE = (2, 5, 12)


def _tape(trains: bool = True) -> Tape:
    """x (2, 5, 12) → y (2, 5, 8), by way of 3."""
    parameters = {
        "L": Parameter("L", (8, 3), 0, trains),
        "R": Parameter("R", (3, 12), 0, trains),
        "b": Parameter("b", (8,), 0, trains),
    }
    params = {"left": "L", "right": "R", "bias": "b"}
    op = Op("fc", "factored_linear", 0, ("x",), "y", params, stored={"x": PACKING})
    return Tape((Tensor("x", SHAPE, "x"),), parameters, (op,))


def test_flops_are_those_of_two_products_and_of_what_makes_the_gradients() -> None:
    recorded = Recorded.of(_tape(), live_inputs=True)
    flops: dict[str, int] = {}
    for _, kind, count in recorded.computed():
        flops[kind] = flops.get(kind, 0) + count
    products = 2 * 10 * 3 * (12 + 8)
    assert flops["forward"] == products + PACKING.pack_flops(SHAPE)
    small = 2 * (3 * 12 * 4 + 8 * 4 * 3 + 3 * 8 * 4 + 3 * 4 * 12)  # R·U₃, and L's; Lᵀ·M, and R's
    assert flops["backward"] == products + PACKING.core_flops(SHAPE, 8) + small


def test_the_input_is_kept_as_it_is_packed_if_factors_train() -> None:
    assert [size for *_, size in Recorded.of(_tape()).saved()] == [PACKING.bytes(SHAPE, "fp32")]
    assert [*Recorded.of(_tape(trains=False), live_inputs=True).saved()] == []


@pytest.mark.parametrize("live", [True, False])
def test_gradients_come_in_the_order_of_the_code(passes: Passes, live: bool) -> None:
    made = [name for name, change in passes(_tape(), live)[1] if change > 0 and "gradient" in name]
    assert made == ["gradient of L", "gradient of R", *["gradient 1 of x"] * live, "gradient of b"]
