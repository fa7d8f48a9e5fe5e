"""Few bits by kernels, against torch's path; ``test_kernels`` runs these in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bsr_explorer.devices import CPU, DEVICES
from bsr_explorer.storages import Quantized, fused
from bsr_explorer.storages.packing import unpack_numbers
from tests.storages.interpreting import assert_same

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CASES: list[tuple[Quantized, tuple[int, ...]]] = [
    (Quantized(8, 1), (3, 5, 7)),
    (Quantized(8, 3), (1, 5, 12)),
    (Quantized(8, 150), (2, 21, 150)),  # more columns than a program reads, and more rows
    (Quantized(8, 5, axis=1), (3, 5, 9)),
    (Quantized(8, 2, axis=1), (2, 2, 4601)),  # by runs, and more bytes than a program packs
    (Quantized(8, 1), (1, 9001)),
    (Quantized(4, 1), (2, 3, 5)),
    (Quantized(4, 2), (3, 611, 2)),
    (Quantized(4, 3, axis=1), (2, 3, 7, 7)),
    (Quantized(2, 7), (2, 3, 7)),
    (Quantized(2, 1), (1, 1)),
    (Quantized(2, 2), (2, 13, 2 * 41)),
]
every_case = pytest.mark.parametrize(("packing", "shape"), CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def tensor(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3
    return (x + torch.arange(shape[-1])).to(dtype)


@every_case
@every_dtype
def test_ranges_and_what_is_unpacked_are_torchs_to_the_bit(
    packing: Quantized, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = tensor(shape, dtype)
    ours, theirs = packing.pack_fused(x), packing.pack_plainly(x)
    assert [(t.shape, t.dtype) for t in ours] == [(t.shape, t.dtype) for t in packing.form(x)]
    assert_same(ours[1], theirs[1])
    for packed in (ours, theirs):
        plainly = packing.unpack_plainly(packed, shape, dtype)
        assert_same(packing.unpack_fused(packed, shape, dtype), plainly)
    wide = packing.unpack_fused(ours, shape, torch.float32)
    groups = zip(*(t.chunk(packing.count, packing.axis) for t in (x, wide)), strict=True)
    for exact, stored in groups:
        step = float(exact.max().float() - exact.min().float()) / (2**packing.bits - 1)
        assert float((stored - exact.float()).abs().max()) <= step * (1 + 1e-4)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_where_torch_multiplies_by_an_inverse_so_does_the_kernel(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's quotient of a tensor and a number does on CUDA: ``a * (1 / b)``, each rounded."""
    inverse = float(torch.tensor(1.0) / (2**bits - 1))
    launch = fused.launch

    def as_on_cuda(kernel: object, *arguments: object, **constants: object) -> None:
        assert constants["INVERSE"] == 0
        launch(kernel, *arguments, **{**constants, "INVERSE": inverse})  # type: ignore[arg-type]

    shape, packing = (3, 5, 12), Quantized(bits, 4)
    packed = packing.pack_plainly(tensor(shape))
    one_by_one = torch.empty(3, 60)
    unpack_numbers(packed[0], bits, one_by_one)
    step, low = ((t.repeat_interleave(3)) for t in (packed[1][1] * inverse, packed[1][0]))
    monkeypatch.setattr(fused, "launch", as_on_cuda)
    assert_same(packing.unpack_fused(packed, shape, torch.float32), one_by_one.view(shape) * step + low)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("elements", [1, 2, 3, 7, 1030])
def test_whole_numbers_are_packed_as_torch_packs_them(bits: int, elements: int) -> None:
    """No chance is drawn for them; the bits that fill up a byte are 0."""
    x = torch.arange(2 * elements).remainder_(2**bits).float().view(2, elements)
    x[0, 0], x[1, -1] = 0, 2**bits - 1
    packing = Quantized(bits, 1)
    assert_same(packing.pack_fused(x), packing.pack_plainly(x))


@pytest.mark.parametrize("ema", [0.9, 0.5, 0.3])
@pytest.mark.parametrize(("count", "axis"), [(6, -1), (5, 1)])
def test_running_ranges_are_torchs_to_the_bit(ema: float, count: int, axis: int) -> None:
    packing = Quantized(8, count, axis, ema)
    ours, theirs = (torch.full((2, count), torch.nan) for _ in range(2))
    for step in range(4):
        x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(step))
        packed = packing.pack_fused(x, ours), packing.pack_plainly(x, theirs)
        assert_same(ours, theirs)
        assert_same(packed[0][1], packed[1][1])
        assert_same(packed[0][1], ours)


@pytest.mark.parametrize("value", [0.0, -7.25, 1e-42, 3e38])
def test_a_group_of_one_value_is_exact(value: float) -> None:
    x = torch.full((2, 3, 4), value)
    packing = Quantized(8, 2)
    assert_same(packing.pack_fused(x), packing.pack_plainly(x))
    assert_same(packing.unpack_fused(packing.pack_fused(x), (2, 3, 4), torch.float32), x)


@every_dtype
@pytest.mark.parametrize("odd", [[torch.nan], [torch.inf], [-torch.inf], [torch.inf, -torch.inf, torch.nan]])
@pytest.mark.parametrize("packing", [Quantized(8, 3), Quantized(4, 2, axis=1), Quantized(2, 1)], ids=str)
def test_what_is_no_finite_number_spoils_its_group_as_in_torch(
    packing: Quantized, odd: list[float], dtype: torch.dtype
) -> None:
    x = tensor((2, 4, 6), dtype)
    x[0, 1, : len(odd)] = torch.tensor(odd, dtype=dtype)
    ours, theirs = packing.pack_fused(x), packing.pack_plainly(x)
    assert_same(ours[1], theirs[1])
    again = [packing.unpack_fused(packed, (2, 4, 6), dtype) for packed in (ours, theirs)]
    assert_same(again[0].isfinite(), again[1].isfinite())
    assert_same(again[1], packing.unpack_plainly(theirs, (2, 4, 6), dtype))


def test_a_tensor_that_is_not_contiguous() -> None:
    x = tensor((4, 6, 5)).permute(2, 0, 1)
    packing = Quantized(8, 3)
    ours = packing.pack_fused(x)
    assert_same(ours[1], packing.pack_plainly(x.contiguous())[1])
    assert float((packing.unpack_fused(ours, (5, 4, 6), torch.float32) - x).abs().max()) < 0.1


def test_what_lies_beyond_the_running_range_is_clamped() -> None:
    packing, running = Quantized(8, 1, ema=0.9), torch.full((2, 1), torch.nan)
    packing.pack_fused(torch.tensor([[0.0, 1.0]]), running)
    stored = packing.unpack_fused(
        packing.pack_fused(torch.tensor([[-100.0, 100.0]]), running), (1, 2), torch.float32
    )
    assert stored[0].tolist() == pytest.approx([-10.0, -10.0 + 0.9 * 1 + 0.1 * 200], abs=1e-3)


# --- chance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("fraction", [0.03, 0.25, 0.9])
def test_rounding_is_right_in_the_mean_and_each_number_for_itself(bits: int, fraction: float) -> None:
    """The mean, the variance of sums, and what neighbours and the numbers of one byte have in common."""
    torch.manual_seed(0)
    x = torch.full((1, 40_000), 1 + fraction)
    x[0, 0], x[0, 1] = 0, 2**bits - 1
    packing = Quantized(bits, 1)
    up = packing.unpack_fused(packing.pack_fused(x), (1, 40_000), torch.float32)[0, 2:].sub(1).round()
    assert set(up.tolist()) == {0.0, 1.0}
    variance = fraction * (1 - fraction)
    assert abs(float(up.mean()) - fraction) < 5 * (variance / len(up)) ** 0.5
    sums = up[:39_900].view(-1, 100).sum(1)
    assert float(sums.var()) == pytest.approx(100 * variance, rel=0.4)
    away = up - fraction
    for distance in (1, 256, 512, 768, 10_000, 20_000):
        together = float((away[distance:] * away[:-distance]).mean())
        assert abs(together) < 5 * variance / (len(up) - distance) ** 0.5


def test_each_number_is_right_in_the_mean_over_draws() -> None:
    torch.manual_seed(0)
    x, packing, draws = torch.rand(1, 600), Quantized(4, 1), 200
    drawn = torch.stack(
        [packing.unpack_fused(packing.pack_fused(x), (1, 600), torch.float32) for _ in range(draws)]
    )
    step = float(x.max() - x.min()) / 15
    score = (drawn.mean(0) - x) / (step / 2 / draws**0.5)
    assert abs(float(score.mean())) < 0.2
    assert 0.5 < float(score.std()) < 1
    assert float(score.abs().max()) < 5


def test_chance_follows_torchs_seed() -> None:
    x, packing = torch.rand(2, 700), Quantized(8, 1)

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return packing.pack_fused(x)[0]

    assert torch.equal(drawn(4), drawn(4))
    assert not torch.equal(drawn(4), drawn(5))
    torch.manual_seed(4)
    assert not torch.equal(packing.pack_fused(x)[0], packing.pack_fused(x)[0])


# --- whether they are used ------------------------------------------------------------------------------


def test_they_are_used_where_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    launch = fused.launch

    def counted(kernel: object, *arguments: object, **constants: object) -> None:
        launched.append(str(kernel))
        launch(kernel, *arguments, **constants)  # type: ignore[arg-type]

    before = torch.get_rng_state()
    assert fused.usable(torch.device("cpu"))  # compares them with torch's path
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(fused, "launch", counted)
    x, packing = tensor((2, 3, 6)), Quantized(8, 3)
    packing.unpack(packing.pack(x), (2, 3, 6), torch.float32)
    assert not launched
    monkeypatch.setitem(DEVICES, "cpu", replace(CPU, packs_fused=True))
    packed = packing.pack(x, torch.full((2, 3), torch.nan))
    assert len(launched) == 3
    packing.unpack(packed, (2, 3, 6), torch.float32)
    assert len(launched) == 4
    assert not torch.equal(torch.get_rng_state(), before)
    monkeypatch.setenv(fused.SWITCH, "torch")
    packing.unpack(packing.pack(x), (2, 3, 6), torch.float32)
    assert len(launched) == 4
