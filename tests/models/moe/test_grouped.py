"""Linear layers of several experts: products and gradients are those of plain ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.models.moe.grouped import Grouped

COUNTS = (3, 0, 4, 1)


def by_hand(layer: Grouped, rows: Tensor) -> Tensor:
    """Each expert's rows through a plain linear layer."""
    parts = rows.split(list(COUNTS))
    return torch.cat([F.linear(part, layer.weight[e].t(), layer.bias[e]) for e, part in enumerate(parts)])


def gradients(layer: Grouped, rows: Tensor, out: Tensor) -> list[Tensor]:
    """Of a loss that is not the same for all."""
    wanted = [rows, layer.weight, layer.bias]
    return list(torch.autograd.grad((out * torch.arange(out.numel()).view_as(out)).sum(), wanted))


def test_each_expert_has_rows_of_its_own() -> None:
    torch.manual_seed(0)
    layer, rows = Grouped(4, 6, 5), torch.randn(8, 6, requires_grad=True)
    ends = torch.tensor(COUNTS).cumsum(0)
    out, expected = layer(rows, ends), by_hand(layer, rows)
    assert torch.allclose(out, expected, atol=1e-6)
    for mine, theirs in zip(gradients(layer, rows, out), gradients(layer, rows, expected), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    layer = Grouped(3, 4, 2).double()
    rows = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *_: layer(x, torch.tensor([2, 2, 5])), (rows, *layer.parameters())
    )


def test_as_many_rows_each_need_no_ends() -> None:
    layer, rows = Grouped(4, 6, 5), torch.randn(8, 6)
    assert torch.allclose(layer(rows, None), layer(rows, torch.tensor([2, 4, 6, 8])), atol=1e-6)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    layer, rows = Grouped(2, 3, 3), torch.randn(4, 3, requires_grad=True)
    getattr(layer, frozen).requires_grad_(False)
    layer(rows, torch.tensor([1, 4])).sum().backward()
    assert getattr(layer, frozen).grad is None and rows.grad is not None


def test_autocast_runs_in_its_format() -> None:
    layer, rows = Grouped(2, 3, 3), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(rows, torch.tensor([1, 4])).dtype == layer(rows, None).dtype == torch.bfloat16
