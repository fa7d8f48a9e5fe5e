"""Factors of channels, against their formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bsr_explorer.methods.applied.ia3 import ChannelScale


@pytest.mark.parametrize("count", [6, 4])
def test_outputs_and_gradients_are_those_of_the_formula(count: int) -> None:
    torch.manual_seed(0)
    scale = ChannelScale(count, torch.empty(0))
    x, mixed = torch.randn(2, 5, 6, requires_grad=True), torch.randn(2, 5, 6)
    assert torch.equal(scale(x), x)
    with torch.no_grad():
        scale.gamma.normal_()
    factors = torch.cat([torch.ones(6 - count), scale.gamma])
    out, by_hand = scale(x), x * factors
    torch.testing.assert_close(out, by_hand)
    found = torch.autograd.grad((out * mixed).sum(), (x, scale.gamma))
    expected = torch.autograd.grad((by_hand * mixed).sum(), (x, scale.gamma))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(scale(x), by_hand)


def test_a_result_has_the_number_format_of_what_is_scaled() -> None:
    scale = ChannelScale(4, torch.empty(0))
    x = torch.randn(2, 5, 6).to(torch.bfloat16).requires_grad_()
    out = scale(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert isinstance(scale.gamma, nn.Parameter)
    assert scale.gamma.grad is not None and scale.gamma.grad.dtype == torch.float32
