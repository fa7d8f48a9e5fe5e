"""What every packing promises: its bytes, and what it takes on the way, in closed form; and a tensor again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.devices import CPU
from bsr_explorer.measurement.peak import highest_on_cpu
from bsr_explorer.storages import Narrow, Packing, Projected, Quantized, Sampled, Sparse, Steps, Tucker
from bsr_explorer.storages.packing import DTYPES

PACKINGS: list[Packing] = [
    Narrow("fp16"),
    Narrow("fp32"),
    Sparse(0.9),
    Sparse(0.0),
    Sparse(0.5, "fp32", parts=3),
    Sparse(0.8, quantize=8),
    Sparse(0.3, quantize=4, parts=3),
    Quantized(8, 2),
    Quantized(4, 6, ema=0.0),
    Quantized(2, 1),
    Quantized(8, 3, axis=1),
    Steps(),
    Sampled(0.3),
    Sampled(1.0),
    Projected(2),
    Projected(6, scale=0.5),
    Tucker((0.5, 0.5, 0.1)),
    Tucker((1.0, 1, 0.5)),
]
every_packing = pytest.mark.parametrize("packing", PACKINGS, ids=str)


def tensor(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DTYPES[dtype])


@every_packing
@given(images=st.integers(1, 3), width=st.integers(1, 5), dtype=st.sampled_from(sorted(DTYPES)))
@settings(max_examples=20)
def test_bytes_are_those_of_what_is_kept(packing: Packing, images: int, width: int, dtype: str) -> None:
    shape = (images, 3, 6 * width)
    x = tensor(shape, dtype)
    packed = packing.pack(x)
    assert sum(t.untyped_storage().nbytes() for t in packed) == packing.bytes(shape, dtype)
    again = packing.unpack(packed, shape, x.dtype)
    assert again.shape == x.shape
    assert again.dtype == x.dtype
    assert again.untyped_storage().data_ptr() not in {t.untyped_storage().data_ptr() for t in packed}
    form = packing.form(x)
    assert [(t.shape, t.dtype) for t in form] == [(t.shape, t.dtype) for t in packed]


@every_packing
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(5, 3, 600), (2, 3, 120_000)])
def test_what_it_takes_on_the_way_is_known(packing: Packing, dtype: str, shape: tuple[int, ...]) -> None:
    """By the allocator's record; a few numbers beside (ranges, counts) and magnitudes as large as the threshold."""
    x, size = tensor(shape, dtype), packing.bytes(shape, dtype)
    kept: list[object] = []
    took = highest_on_cpu(lambda: kept.append(packing.pack(x)))
    assert took.tensors - size == pytest.approx(packing.pack_scratch(shape, dtype, CPU), abs=200, rel=1e-3)
    packed = packing.pack(x)
    took = highest_on_cpu(lambda: kept.append(packing.unpack(packed, shape, x.dtype)))
    assert took.tensors - x.nbytes == pytest.approx(
        packing.unpack_scratch(shape, dtype, CPU), abs=200, rel=1e-3
    )


@every_packing
def test_equal_are_packings_of_equal_numbers(packing: Packing) -> None:
    assert packing == eval(
        repr(packing), {c.__name__: c for c in (Narrow, Sparse, Sampled, Steps, Projected, Quantized, Tucker)}
    )
    assert hash(packing) == hash(packing)
    assert packing.packs
