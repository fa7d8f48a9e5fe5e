"""Where kernels of our own are used, what they take on the way, and what happens where they do not work."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch

from bsr_explorer.devices import CPU, CUDA, DEVICES, Device
from bsr_explorer.measurement.peak import highest_on_cpu
from bsr_explorer.storages import Narrow, Packing, Quantized, Sparse, fused
from bsr_explorer.storages.packing import DTYPES
from tests.storages.interpreting import needs_triton

FUSES = replace(CPU, packs_fused=True)
PACKINGS: list[Packing] = [
    Quantized(8, 3),
    Quantized(8, 3, axis=1, ema=0.0),
    Quantized(4, 600),
    Quantized(2, 1),
    Sparse(0.9),
    Sparse(0.5, "fp32", parts=3),
]
every_packing = pytest.mark.parametrize("packing", PACKINGS, ids=str)
QUANTISED: list[Packing] = [Sparse(0.8, quantize=8), Sparse(0.3, quantize=4, parts=3)]


@pytest.fixture
def none_works() -> Iterator[None]:
    """Nothing is known of any device yet, nor afterwards."""
    fused._works.cache_clear()
    yield
    fused._works.cache_clear()


def test_a_processor_has_none() -> None:
    assert not CPU.packs_fused


@pytest.mark.parametrize(
    ("packing", "fuses"),
    [
        (Quantized(8, 3), True),
        (Quantized(8, 3, axis=1), True),
        (Sparse(0.9), True),
        (Sparse(0.9, quantize=8), True),
        (Narrow(), False),
    ],
    ids=str,
)
def test_which_packings_have_some(packing: Packing, fuses: bool) -> None:
    assert packing.fuses(FUSES) == fuses
    assert not packing.fuses(CPU)


# --- what they take -------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize("packing", PACKINGS + QUANTISED, ids=str)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(5, 3, 600), (2, 3, 30_000)])
def test_what_they_take_on_the_way_is_known(
    packing: Packing, dtype: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, by the allocator's record; kernels themselves take nothing."""
    monkeypatch.setattr(fused, "launch", lambda *_, **__: None)
    monkeypatch.setattr(fused, "usable", lambda device: True)
    monkeypatch.setitem(DEVICES, "cpu", FUSES)
    x, kept = torch.zeros(shape, dtype=DTYPES[dtype]), list[object]()
    packing.pack(x)  # loads what is loaded once
    took = highest_on_cpu(lambda: kept.append(packing.pack(x)))
    course = packing.pack_course(shape, dtype, FUSES)
    assert took.tensors - packing.bytes(shape, dtype) == _highest(course)
    assert _highest(course) == packing.pack_scratch(shape, dtype, FUSES)
    packed = packing.pack(x)
    took = highest_on_cpu(lambda: kept.append(packing.unpack(packed, shape, x.dtype)))
    course = packing.unpack_course(shape, dtype, FUSES)
    assert took.tensors - x.nbytes == _highest(course)
    assert _highest(course) == packing.unpack_scratch(shape, dtype, FUSES)
    assert packing in QUANTISED or not course


def _highest(course: tuple[int, ...]) -> int:
    assert sum(course) == 0
    return max(accumulate(course), default=0)


@every_packing
def test_on_a_gpu_it_is_less_than_torchs_operations_take(packing: Packing) -> None:
    """Of a DeiT-S's batch."""
    shape = (64, 3, 197, 600) if packing in (Quantized(8, 3, axis=1, ema=0.0),) else (64, 197, 600)
    devices: list[Device] = [replace(CUDA, packs_fused=fuses) for fuses in (True, False)]
    ours, theirs = (_highest(packing.pack_course(shape, "fp32", device)) for device in devices)
    assert 10 * ours < theirs


# --- whether they work ----------------------------------------------------------------------------------


def _said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(DEVICES, "cpu", FUSES)
    x, packing = torch.randn(2, 3, 6), Quantized(8, 3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            again = packing.unpack(packing.pack(x), (2, 3, 6), torch.float32)
            assert float((again - x).abs().max()) < 0.05
    return [str(warning.message) for warning in said]


@pytest.mark.usefixtures("none_works")
def test_where_they_differ_torchs_path_stays_and_that_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_differences", lambda device: iter(["two and two are five"]))
    assert _said(monkeypatch) == [
        "packing on cpu runs without kernels of its own, and slower: two and two are five"
    ]


@pytest.mark.usefixtures("none_works")
def test_where_they_fail_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: torch.device) -> Iterator[str]:
        raise RuntimeError("no driver\nand a long story")

    monkeypatch.setattr(fused, "_differences", fails)
    assert _said(monkeypatch) == [
        "packing on cpu runs without kernels of its own, and slower: RuntimeError: no driver"
    ]


@pytest.mark.usefixtures("none_works")
def test_where_there_is_no_triton_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kernels", "sparse_kernels"):
        monkeypatch.delitem(sys.modules, f"bsr_explorer.storages.{name}", raising=False)
        monkeypatch.delattr(f"bsr_explorer.storages.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    (said,) = _said(monkeypatch)
    assert "ModuleNotFoundError" in said


@pytest.mark.usefixtures("none_works")
def test_a_processor_compiles_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a record say so where Triton has no compiler."""
    (said,) = _said(monkeypatch)
    assert said.startswith("packing on cpu runs without kernels of its own, and slower: ")


@pytest.mark.usefixtures("none_works")
def test_they_are_switched_off_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fused.SWITCH, "torch")
    assert _said(monkeypatch) == []


def test_nothing_loads_triton_before_it_is_needed() -> None:
    """Neither the package, nor packing where the record says nothing of kernels."""
    script = (
        "import sys, bsr_explorer.storages as s; assert 'torch' not in sys.modules\n"
        "import torch; loaded = 'triton' in sys.modules\n"
        "p = s.Quantized(8, 3); p.unpack(p.pack(torch.randn(2, 3, 6)), (2, 3, 6), torch.float32)\n"
        "assert 'bsr_explorer.storages.fused' not in sys.modules\n"
        "assert ('triton' in sys.modules) == loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- on a card ------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("packing", PACKINGS + QUANTISED, ids=str)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_on_a_card_they_work_never_wait_and_take_what_is_said(packing: Any, dtype: str) -> None:
    """Of many tiles and rows. What is not drawn by chance equals torch's path there, but for a last bit."""
    device = replace(CUDA, packs_fused=True)
    assert fused.usable(torch.device("cuda", 0))
    shape = (16, 3, 197, 600)
    x = torch.randn(shape, device="cuda").to(DTYPES[dtype])
    packing.unpack_fused(packing.pack_fused(x), shape, x.dtype)  # compiles
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = packing.pack_fused(x)
        highest = torch.cuda.max_memory_allocated() - before
        again = packing.unpack_fused(ours, shape, x.dtype)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    kept = sum(device.rounded(size) for size in packing.pieces(shape, dtype))
    course = tuple(
        device.rounded(abs(size)) * (1 if size > 0 else -1)
        for size in packing.pack_course(shape, dtype, device)
    )
    assert highest == kept + _highest(course)
    theirs = packing.pack_plainly(x)
    drawn = isinstance(packing, Quantized) or packing.quantize is not None
    for one, other in list(zip(ours, theirs, strict=True))[1 if drawn else 0 :]:
        assert torch.equal(one, other)
    plainly = packing.unpack_plainly(ours, shape, x.dtype)
    assert torch.allclose(again, plainly, rtol=2**-7 if dtype == "bf16" else 2**-10, atol=2**-20)
