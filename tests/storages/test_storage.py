"""The dense storage, and one that needs nothing on the way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.devices import DEVICES, Device
from bsr_explorer.storages.storage import DENSE, Dense
from bsr_explorer.units import WIDTH


@pytest.mark.parametrize(
    ("dtype", "size"), [("fp32", 24), ("bf16", 12), ("fp16", 12), ("int64", 48), ("int32", 24)]
)
def test_dense_storage_takes_each_element_at_its_width(dtype: str, size: int) -> None:
    assert DENSE.bytes((2, 3), dtype) == size


@pytest.mark.parametrize("device", DEVICES.values(), ids=list(DEVICES))
@given(st.lists(st.integers(1, 50), max_size=4).map(tuple), st.sampled_from(sorted(WIDTH)))
def test_a_dense_tensor_needs_nothing_on_the_way(device: Device, shape: tuple[int, ...], dtype: str) -> None:
    assert DENSE.bytes(shape, dtype) == math.prod(shape) * WIDTH[dtype]
    assert DENSE.pack_scratch(shape, dtype, device) == 0
    assert DENSE.unpack_scratch(shape, dtype, device) == DENSE.passing(shape, dtype) == 0
    assert not DENSE.packs


def test_storages_are_compared_by_value() -> None:
    assert Dense() == DENSE
    assert len({Dense(), DENSE}) == 1
