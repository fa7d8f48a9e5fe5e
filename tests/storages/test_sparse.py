"""The largest of each image, against a dense mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bsr_explorer.devices import CPU, DEVICES
from bsr_explorer.storages import Sparse
from bsr_explorer.storages import packing as packing_module


def reference(x: torch.Tensor, ratio: float) -> torch.Tensor:
    """Back Razor's rule, said slowly: an image at a time, what is not below the k-th smallest magnitude."""
    rows = []
    for image in x:
        flat = image.flatten()
        k = int(flat.numel() * ratio)
        threshold = flat.abs().sort().values[k - 1] if k else 0.0
        rows.append(torch.where(flat.abs() >= threshold, flat, 0.0).view_as(image))
    return torch.stack(rows)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 50, 192), (2, 3, 17, 17)])
def test_it_is_the_paper_s_rule(ratio: float, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    packing = Sparse(ratio, "fp32")
    assert torch.equal(packing.unpack(packing.pack(x), shape, torch.float32), reference(x, ratio))


def test_parts_have_thresholds_of_their_own() -> None:
    x = torch.randn(2, 8, 12) * torch.tensor([1.0, 100.0, 0.01]).repeat_interleave(4)
    packing = Sparse(0.5, "fp32", parts=3)
    again = packing.unpack(packing.pack(x), (2, 8, 12), torch.float32)
    expected = torch.cat([reference(part.contiguous(), 0.5) for part in x.chunk(3, dim=-1)], dim=-1)
    assert torch.equal(again, expected)


def test_how_many_are_kept() -> None:
    assert [Sparse(ratio).kept(100) for ratio in (0, 0.001, 0.5, 0.7, 0.9, 0.99)] == [100, 100, 51, 31, 11, 2]


def test_what_is_given_up_is_cut_off_as_the_authors_do() -> None:
    assert 0.7 * 90 < 63  # in floating point
    assert Sparse(0.7).kept(90) == 90 - 62 + 1


def test_of_equal_magnitudes_the_first_are_kept() -> None:
    x = torch.tensor([[1.0, -2.0, 2.0, 2.0, -2.0, 0.0, 0.0, 0.0]])
    packing = Sparse(0.75, "fp32")
    assert packing.unpack(packing.pack(x), (1, 8), torch.float32).tolist() == [[0, -2, 2, 2, 0, 0, 0, 0]]


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_values_are_within_a_step_and_right_in_the_mean(bits: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 40, 9)
    exact, packing = reference(x, 0.5), Sparse(0.5, quantize=bits)
    drawn = [packing.unpack(packing.pack(x), (2, 40, 9), torch.float32) for _ in range(300)]
    step = 2 * float(x.abs().max()) / (2**bits - 1)
    assert all(float((one - exact).abs().max()) <= step for one in drawn)
    assert float((torch.stack(drawn).mean(0) - exact).abs().max()) < step / 5


@pytest.mark.parametrize(
    "packing", [Sparse(0.7), Sparse(0.5, parts=3), Sparse(0.9, "fp32", parts=3), Sparse(0.0)], ids=str
)
@pytest.mark.parametrize("shape", [(3, 5, 9), (2, 11, 12)])
@pytest.mark.parametrize("at_once", [1, 100, 2**18])
def test_many_rows_at_once_are_the_same(
    packing: Sparse, shape: tuple[int, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a device that says so, done on a CPU."""
    x = torch.randn(shape)
    x[0] = x[0].round()
    one_by_one = packing.pack(x)
    again = packing.unpack(one_by_one, shape, torch.float32)
    monkeypatch.setitem(DEVICES, "cpu", replace(CPU, packs_rows=True, at_once=at_once))
    monkeypatch.setattr(packing_module, "largest", None)  # which takes one piece
    many = packing.pack(x)
    assert all(torch.equal(one, other) for one, other in zip(one_by_one, many, strict=True))
    assert torch.equal(packing.unpack(many, shape, torch.float32), again)
