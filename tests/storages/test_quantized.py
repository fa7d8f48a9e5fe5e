"""Few bits within ranges, against the arithmetic said slowly."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.storages import Quantized


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize(("count", "axis"), [(1, -1), (4, -1), (12, -1), (5, 1)])
def test_every_number_is_within_a_step_of_its_group(bits: int, count: int, axis: int) -> None:
    x = torch.randn(3, 5, 12) * torch.arange(1, 13)
    packing = Quantized(bits, count, axis)
    again = packing.unpack(packing.pack(x), (3, 5, 12), torch.float32)
    groups = zip(x.chunk(count, axis), again.chunk(count, axis), strict=True)
    for exact, stored in groups:
        step = float(exact.max() - exact.min()) / (2**bits - 1)
        assert float((stored - exact).abs().max()) <= step * (1 + 1e-4)
        assert float(stored.min()) >= float(exact.min()) - 1e-4
        assert float(stored.max()) <= float(exact.max()) + 1e-4


def test_it_is_right_in_the_mean() -> None:
    torch.manual_seed(0)
    x, packing = torch.randn(2, 10, 8), Quantized(4, 2)
    drawn = torch.stack([packing.unpack(packing.pack(x), (2, 10, 8), torch.float32) for _ in range(1000)])
    step = float(x.max() - x.min()) / 15
    assert float((drawn.mean(0) - x).abs().max()) < 5 * step / 2 / 1000**0.5


def test_a_group_of_one_value_is_exact() -> None:
    x = torch.full((2, 3, 4), 7.25)
    packing = Quantized(8, 2)
    assert torch.equal(packing.unpack(packing.pack(x), (2, 3, 4), torch.float32), x)


def test_what_lies_beyond_the_running_range_is_clamped() -> None:
    """Where the authors' code wraps around."""
    packing, running = Quantized(8, 1, ema=0.9), torch.full((2, 1), torch.nan)
    packing.pack(torch.tensor([[0.0, 1.0]]), running)
    far = torch.tensor([[-100.0, 100.0]])
    stored = packing.unpack(packing.pack(far, running), (1, 2), torch.float32)
    low, high = -10.0, -10.0 + 0.9 * 1 + 0.1 * 200
    assert stored[0].tolist() == pytest.approx([low, high], abs=1e-3)


def test_ranges_are_kept_with_the_numbers() -> None:
    """So that a later forward pass does not change what an earlier one stored."""
    packing, running = Quantized(8, 1, ema=0.9), torch.full((2, 1), torch.nan)
    x = torch.rand(2, 3, 4)
    packed = packing.pack(x, running)
    before = packing.unpack(packed, (2, 3, 4), torch.float32)
    packing.pack(1000 * x, running)
    assert torch.equal(packing.unpack(packed, (2, 3, 4), torch.float32), before)


def test_only_a_mean_over_steps_is_remembered() -> None:
    assert Quantized(8, 6, ema=0.9).groups == 6
    assert Quantized(8, 6, ema=0.0).groups == 0
