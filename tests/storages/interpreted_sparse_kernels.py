"""The largest elements by kernels, against torch's path; ``test_sparse_kernels`` runs these in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bsr_explorer.devices import CPU, DEVICES
from bsr_explorer.storages import Packing, Quantized, Sparse, fused
from bsr_explorer.storages.packing import largest_of_rows
from tests.storages import packed as packed_module
from tests.storages.interpreting import assert_same

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
PACKINGS = [
    Sparse(0.9),
    Sparse(0.7, parts=3),
    Sparse(0.5, "fp32", parts=3),
    Sparse(0.99, "bf16"),
    Sparse(0.0),
    Sparse(0.0, "bf16", parts=3),
]
SHAPES = [(1, 1, 3), (3, 5, 9), (2, 11, 12), (1, 3, 17, 18), (2, 41, 33 * 3)]
"""Elements of a piece that are no multiple of 8, and fewer than 8."""


def tensor(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The first image has many ties; the others have a few."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x[0] = x[0].round()
    return x.to(dtype)


def check(packing: Sparse, x: torch.Tensor) -> None:
    """Both ways, packed by both: equal to the bit."""
    ours, theirs = packing.pack_fused(x), packing.pack_plainly(x)
    assert [(t.shape, t.dtype) for t in ours] == [(t.shape, t.dtype) for t in packing.form(x)]
    assert_same(ours, theirs)
    shape = tuple(x.shape)
    assert_same(packing.unpack_fused(theirs, shape, x.dtype), packing.unpack_plainly(ours, shape, x.dtype))


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_dtype
def test_all_is_torchs_to_the_bit(packing: Sparse, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(packing, tensor(shape, dtype))


@pytest.mark.parametrize(("ratio", "parts"), [(0.9, 1), (0.3, 3)])
@every_dtype
def test_pieces_of_several_tiles(ratio: float, parts: int, dtype: torch.dtype) -> None:
    """Ties in all of them: those of the last are too many."""
    check(Sparse(ratio, parts=parts), tensor((2, 31, parts * 331), dtype).mul(4).round())


@pytest.mark.parametrize("packing", [Sparse(0.9), Sparse(0.4, "fp32", parts=3)], ids=str)
@every_dtype
def test_what_is_no_finite_number_is_the_largest(packing: Sparse, dtype: torch.dtype) -> None:
    x = tensor((2, 5, 12), dtype)
    x[0, 2, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
    x[1, :4] = torch.nan  # more than are kept
    check(packing, x)


@pytest.mark.parametrize("value", [0.0, -0.0, 2.5, 1e-41, 3e38])
def test_of_equal_magnitudes_the_first_are_kept(value: float) -> None:
    x = torch.full((2, 3, 30), value)
    x[:, :, ::2] *= -1
    check(Sparse(0.8), x)
    check(Sparse(0.8, "fp32", parts=3), x)


def test_thresholds_of_every_size() -> None:
    """Magnitudes whose bits are all of one kind, and neighbours of one another."""
    bits = torch.tensor([0, 1, 2, 3, 0x7F7FFFFF, 0x7F7FFFFE, 0x3F800000, 0x3F7FFFFF, 0x00800000, 0x007FFFFF])
    x = bits.to(torch.int32).view(torch.float32).view(1, 10).repeat(1, 3)
    for tenths in range(10):
        check(Sparse(tenths / 10, "fp32"), x)


def test_what_fp16_cannot_hold_stays_finite() -> None:
    x = torch.tensor([[1e6, -1e6, 65519.9, 65520.0, 1.0, 65504.0]])
    check(Sparse(0.0), x)
    check(Sparse(0.0), x.bfloat16())
    check(Sparse(0.0), x.half())  # which holds infinity already, and keeps it


@pytest.mark.parametrize(
    "packing", [Sparse(0.8, quantize=8), Sparse(0.3, quantize=4, parts=3), Sparse(0.0, quantize=4)], ids=str
)
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 9), (2, 41, 33 * 3)], ids=str)
@every_dtype
def test_quantised_values_have_torchs_ranges_and_come_back_to_the_bit(
    packing: Sparse, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = tensor(shape, dtype)
    ours, theirs = packing.pack_fused(x), packing.pack_plainly(x)
    assert [(t.shape, t.dtype) for t in ours] == [(t.shape, t.dtype) for t in packing.form(x)]
    assert_same(ours[1:], theirs[1:])
    for packed in (ours, theirs):
        plainly = packing.unpack_plainly(packed, shape, dtype)
        assert_same(packing.unpack_fused(packed, shape, dtype), plainly)
    exact = replace(packing, values="fp32", quantize=None)
    away = packing.unpack_fused(ours, shape, torch.float32) - exact.unpack_fused(
        exact.pack_fused(x), shape, torch.float32
    )
    assert float(away.abs().max()) <= 1.001 * float(ours[1][:, 1].max()) / (2 ** (packing.quantize or 0) - 1)


def test_quantised_values_are_right_in_the_mean() -> None:
    torch.manual_seed(0)
    x, packing = torch.randn(2, 40, 9), Sparse(0.5, quantize=4)
    exact = Sparse(0.5, "fp32")
    kept = exact.unpack_fused(exact.pack_fused(x), (2, 40, 9), torch.float32)
    drawn = [packing.unpack_fused(packing.pack_fused(x), (2, 40, 9), torch.float32) for _ in range(100)]
    step = 2 * float(x.abs().max()) / 15
    assert float((torch.stack(drawn).mean(0) - kept).abs().max()) < step / 2 / 100**0.5 * 5


@every_dtype
def test_the_bitmap_is_that_of_rows_at_once(dtype: torch.dtype) -> None:
    """By the search that a GPU runs without them."""
    x, packing = tensor((3, 7, 9), dtype), Sparse(0.6)
    _, bits = packing.pack_fused(x)
    chosen = largest_of_rows(x.view(3, -1), packing.kept(63)).int()
    padded = torch.nn.functional.pad(chosen, (0, 1)).view(3, -1, 8)
    assert bits.tolist() == (padded << torch.arange(8)).sum(2).tolist()


def test_a_tensor_that_is_not_contiguous() -> None:
    x, packing = tensor((4, 6, 5)).permute(2, 0, 1), Sparse(0.7, parts=3)
    assert_same(packing.pack_fused(x), packing.pack_plainly(x.contiguous()))


# --- whether they are used ------------------------------------------------------------------------------


def test_they_are_used_where_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    launch = fused.launch

    def counted(kernel: object, *arguments: object, **constants: object) -> None:
        launched.append(str(kernel))
        launch(kernel, *arguments, **constants)  # type: ignore[arg-type]

    assert fused.usable(torch.device("cpu"))  # compares them with torch's path
    monkeypatch.setitem(DEVICES, "cpu", replace(CPU, packs_fused=True))
    monkeypatch.setattr(fused, "launch", counted)
    x, packing = tensor((2, 3, 6)), Sparse(0.5)
    packed = packing.pack(x)
    assert len(launched) == 2
    packing.unpack(packed, (2, 3, 6), torch.float32)
    assert len(launched) == 3
    quantized = Sparse(0.5, quantize=8)
    quantized.unpack(quantized.pack(x), (2, 3, 6), torch.float32)
    assert len(launched) == 3 + 5 + 2


@pytest.mark.parametrize("packing", [Sparse(0.7), Quantized(8, 3)], ids=str)
@packed_module.every_operation
def test_gradients_are_those_of_torchs_path(
    name: str, packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, where nothing is drawn; else as near as numbers are that are rounded otherwise."""
    run, _, names = packed_module.OPERATIONS[name]
    found = []
    for fuses in (False, True):
        monkeypatch.setitem(DEVICES, "cpu", replace(CPU, packs_fused=fuses))
        leaves = packed_module.operands(*names)
        found.append(packed_module.gradients(run(leaves, packing), leaves))
    for leaf in found[0]:
        if isinstance(packing, Sparse):
            assert_same(found[1][leaf], found[0][leaf])
        else:
            assert torch.allclose(found[1][leaf], found[0][leaf], atol=0.3)
