"""What every device can say: rounded sizes, and the kernel that runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.cost.optimizers import IMPLEMENTATIONS
from bsr_explorer.devices import (
    CPU,
    DEVICES,
    Device,
)

every_device = pytest.mark.parametrize("device", DEVICES.values(), ids=list(DEVICES))


@every_device
def test_what_a_device_comes_to_exists_on_it(device: Device) -> None:
    assert {"fused", "math", device.fused, device.fused_in_16_bits} <= set(device.attention)
    assert {device.optimizer, device.optimizer_8bit} <= set(IMPLEMENTATIONS) - {"auto"}


@given(st.integers(1, 2**20), st.integers(0, 2**40))
def test_sizes_are_rounded_up_to_whole_pieces(granularity: int, size: int) -> None:
    rounded = replace(CPU, granularity=granularity).rounded(size)
    assert size <= rounded < size + granularity
    assert rounded % granularity == 0


def test_a_device_of_which_nothing_is_said_runs_as_a_plain_cpu() -> None:
    plain = Device(name="plain", title="it")
    assert replace(CPU, name="plain", title="it", compared=plain.compared) == plain
    assert plain.rounded(13) == 13
    assert {plain.path("fused", dtype) for dtype in ("fp32", "bf16", "fp16")} == {"fused"}
