"""A linear layer of which a part trains, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bsr_explorer.methods.applied.partial import PartialLinear


def layer(part: str) -> tuple[nn.Linear, PartialLinear]:
    torch.manual_seed(0)
    plain = nn.Linear(6, 5)
    partial = PartialLinear(plain, part, 3)
    for p in plain.parameters():
        p.requires_grad_(False)
    return plain, partial


def _part(partial: PartialLinear, weight: torch.Tensor) -> torch.Tensor:
    lines = weight.reshape(-1) if partial.part == "entries" else weight
    return lines.index_select(partial.dim, partial.index)


@pytest.mark.parametrize("part", ["columns", "rows", "entries"])
def test_gradients_are_parts_of_the_weights(part: str) -> None:
    plain, partial = layer(part)
    with torch.no_grad():
        partial.get_parameter(part).mul_(2)
    x, mixed = torch.randn(2, 4, 6, requires_grad=True), torch.randn(2, 4, 5)
    out = partial(x)
    of_x, of_part = torch.autograd.grad((out * mixed).sum(), (x, partial.get_parameter(part)))
    weight = partial.weight.detach().clone().requires_grad_()
    torch.testing.assert_close(_part(partial, weight), partial.get_parameter(part))
    by_hand = nn.functional.linear(x, weight, plain.bias)
    theirs, whole = torch.autograd.grad((by_hand * mixed).sum(), (x, weight))
    assert torch.equal(out, by_hand)
    torch.testing.assert_close(of_x, theirs)
    torch.testing.assert_close(of_part, _part(partial, whole))


@pytest.mark.parametrize("part", ["columns", "rows", "entries"])
def test_two_forward_passes_before_a_backward_pass(part: str) -> None:
    _, partial = layer(part)
    x = torch.randn(2, 4, 6, requires_grad=True)
    first = partial(x)
    partial(x)
    first.sum().backward()
    assert partial.get_parameter(part).grad is not None


@pytest.mark.parametrize("part", ["columns", "rows", "entries"])
def test_without_a_graph_it_computes_the_same(part: str) -> None:
    _, partial = layer(part)
    with torch.no_grad():
        partial.get_parameter(part).zero_()
        x = torch.randn(2, 4, 6)
        without = partial(x)
    assert torch.equal(partial(x), without)
    with torch.autocast("cpu", torch.bfloat16):
        assert partial(x).dtype == torch.bfloat16
        torch.testing.assert_close(partial(x).float(), without, rtol=0.05, atol=0.05)
