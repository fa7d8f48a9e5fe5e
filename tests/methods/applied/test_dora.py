"""An update with lengths, against the same written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from bsr_explorer.methods.applied.dora import add_update_with_lengths


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_formula(bias: bool) -> None:
    """Of W' with lengths that are constants for the gradient."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 10, bias=bias)
    plain = nn.Linear(6, 10, bias=bias)
    plain.load_state_dict(layer.state_dict())
    add_update_with_lengths(layer, 3, 0.5)
    a, b = layer.get_parameter("lora_A.weight"), layer.get_parameter("lora_B.weight")
    m = layer.get_parameter("lora_magnitude_vector")
    x, mixed = torch.randn(2, 5, 6, requires_grad=True), torch.randn(2, 5, 10)
    torch.testing.assert_close(layer(x), plain(x))  # it begins as the layer was
    with torch.no_grad():
        b.normal_()
        m.mul_(torch.rand(10) + 0.5)
    total = layer.weight.detach() + 0.5 * b @ a
    weight = (m / total.detach().norm(dim=1)).unsqueeze(1) * total
    by_hand = linear(x, weight, layer.bias.detach() if bias else None)
    out = layer(x)
    torch.testing.assert_close(out, by_hand)
    found = torch.autograd.grad((out * mixed).sum(), (x, a, b, m))
    expected = torch.autograd.grad((by_hand * mixed).sum(), (x, a, b, m))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), by_hand)


def test_a_result_has_the_number_format_of_autocast() -> None:
    layer = nn.Linear(6, 10)
    add_update_with_lengths(layer, 3, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(2, 5, 6))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.get_parameter("lora_magnitude_vector").grad is not None
