"""Positions, thresholds and rounding against obvious ways to do the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.storages import packing

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@given(st.integers(1, 300), st.data())
def test_positions_come_back_from_their_bits(elements: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, elements - 1)))
    positions = torch.tensor(sorted(chosen), dtype=torch.int64)
    bits = torch.empty(-(-elements // 8), dtype=torch.uint8)
    packing.pack_positions(positions, bits)
    assert packing.unpack_mask(bits.view(1, -1), elements)[0].nonzero().view(-1).tolist() == sorted(chosen)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    values=st.lists(st.integers(-9, 9).map(lambda i: i / 3), min_size=1, max_size=80),
    data=st.data(),
)
def test_the_largest_are_a_stable_sorts_first(
    dtype: torch.dtype, values: list[float], data: st.DataObject
) -> None:
    x = torch.tensor(values).to(dtype)
    count = data.draw(st.integers(1, len(values)))
    expected = x.abs().sort(descending=True, stable=True).indices[:count].sort().values
    assert packing.largest(x, count).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["normal", "few values", "steep", "by channel"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_of_many_elements_too(dtype: torch.dtype, kind: str, share: float) -> None:
    """So many that a sample tells where the threshold lies, or misleads."""
    torch.manual_seed(0)
    x = torch.randn(50 * 384)
    if kind == "few values":
        x = x.round()
    elif kind == "steep":
        x = torch.rand(len(x)).pow(20)
    elif kind == "by channel":
        x = (x.view(50, 384) * (torch.arange(384) % 6 == 0)).flatten()
    x, count = x.to(dtype), max(1, int(share * len(x)))
    expected = x.abs().sort(descending=True, stable=True).indices[:count].sort().values
    assert torch.equal(packing.largest(x, count), expected)
    rows = torch.stack([x, x.flip(0)])
    expected_rows = torch.stack(
        [r.abs().sort(descending=True, stable=True).indices[:count].sort().values for r in rows]
    )
    assert torch.equal(packing.largest_of_rows(rows, count).nonzero()[:, 1].view(2, -1), expected_rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("elements", [40, 20_000])
def test_what_is_not_a_number_is_the_largest(dtype: torch.dtype, elements: int) -> None:
    x = torch.randn(elements).to(dtype)
    x[7], x[3] = float("nan"), float("inf")
    assert packing.largest(x, 1).tolist() == [7]
    assert packing.largest(x, 2).tolist() == [3, 7]
    assert len(packing.largest(x, elements // 2)) == elements // 2


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("elements", [1, 2, 5, 8, 31])
def test_numbers_of_few_bits_come_back(bits: int, elements: int) -> None:
    numbers = torch.randint(2**bits, (3, elements)).float()
    packed = torch.empty(3, -(-elements * bits // 8), dtype=torch.uint8)
    packing.pack_numbers(numbers + 0.9, bits, packed)
    again = torch.empty(3, elements)
    packing.unpack_numbers(packed, bits, again)
    assert torch.equal(again, numbers)


def test_rounding_by_chance_is_right_in_the_mean() -> None:
    """Each number's mean over many draws is within what its variance explains."""
    torch.manual_seed(0)
    x, draws = torch.rand(2000) * 15, 2000
    total = torch.zeros_like(x)
    for _ in range(draws):
        rounded = x.clone()
        packing.round_stochastically(rounded, 255)
        assert bool(((rounded.floor() - x).abs() < 1).all())
        total += rounded.floor()
    fraction = x - x.floor()
    score = (total / draws - x) / (fraction * (1 - fraction) / draws + 1e-6).sqrt()
    assert abs(float(score.mean())) < 0.1
    assert float(score.std()) == pytest.approx(1, abs=0.1)
    assert float(score.abs().max()) < 6


def test_rounding_stays_between_its_ends() -> None:
    x = torch.tensor([-3.0, -0.01, 0.0, 15.0, 15.5, 300.0])
    for _ in range(50):
        rounded = x.clone()
        packing.round_stochastically(rounded, 15)
        assert rounded.floor().tolist() == [0, 0, 0, 15, 15, 15]


def test_rounding_follows_torchs_seed() -> None:
    def drawn() -> torch.Tensor:
        torch.manual_seed(4)
        x = torch.full((1000,), 0.5)
        packing.round_stochastically(x, 1)
        return x

    assert torch.equal(drawn(), drawn())


def test_ranges_of_channels_and_of_heads() -> None:
    x = torch.arange(24.0).view(2, 3, 4)
    ranges = torch.empty(2, 2)
    packing.current_ranges(x.unflatten(-1, (2, 2)), True, ranges)
    assert ranges.tolist() == [[0.0, 2.0], [21.0, 21.0]]
    ranges = torch.empty(2, 3)
    packing.current_ranges(x.unflatten(1, (3, 1)), False, ranges)
    assert ranges.tolist() == [[0.0, 4.0, 8.0], [15.0, 15.0, 15.0]]


def test_ranges_are_remembered() -> None:
    running = torch.full((2, 2), torch.nan)
    first = torch.tensor([[0.0, 1.0], [10.0, 4.0]])
    packing.remember(running, first.clone(), 0.9)
    assert torch.equal(running, first)  # the first step's are exact
    ranges = torch.tensor([[1.0, 1.0], [20.0, 4.0]])
    packing.remember(running, ranges, 0.9)
    assert torch.allclose(ranges, torch.tensor([[0.1, 1.0], [11.0, 4.0]]))
    assert torch.equal(running, ranges)


def test_what_fp16_cannot_hold_stays_finite() -> None:
    out = torch.empty(3, dtype=torch.float16)
    packing.copy_in_range(torch.tensor([1e6, -1e6, 1.0]), out)
    assert out.tolist() == [65504.0, -65504.0, 1.0]
