"""How a step is run: which implementation ``auto`` is, and when gradients stand."""

from __future__ import annotations

import pytest

from bsr_explorer.cost.setup import Setup
from bsr_explorer.devices import CPU, CUDA
from bsr_explorer.errors import UserError


@pytest.mark.parametrize(
    ("micro_batches", "set_to_none", "stand"),
    [(1, True, False), (2, True, True), (1, False, True), (2, False, True)],
)
def test_gradients_stand_between_micro_batches_or_where_they_are_kept(
    micro_batches: int, set_to_none: bool, stand: bool
) -> None:
    assert Setup(micro_batches=micro_batches, set_to_none=set_to_none).gradients_stand == stand


@pytest.mark.parametrize(
    ("optimizer", "implementation", "device", "runs_as"),
    [
        ("adamw", "auto", "cpu", "loop"),
        ("adamw", "auto", "cuda", "foreach"),
        ("sgd", "fused", "cpu", "fused"),
        ("adamw_8bit", "auto", "cpu", "loop"),
        ("adamw_8bit", "auto", "cuda", "fused"),
        ("adamw_8bit", "foreach", "cuda", "fused"),  # it has one on each device
    ],
)
def test_auto_is_what_the_device_runs(optimizer: str, implementation: str, device: str, runs_as: str) -> None:
    assert Setup(optimizer, implementation, device).runs_as == runs_as


def test_it_is_on_the_device_of_its_name() -> None:
    assert (Setup().on, Setup(device="cuda").on) == (CPU, CUDA)
    with pytest.raises(UserError, match="unknown value 'abacus'"):
        _ = Setup(device="abacus").on
