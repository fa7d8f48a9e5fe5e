"""An update beside a linear layer, against the same written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bsr_explorer.methods.applied.lora import add_update


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_outputs_and_gradients_are_those_of_the_formula(scale: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 10)
    add_update(layer, 3, scale)
    a, b = layer.get_parameter("lora_A.weight"), layer.get_parameter("lora_B.weight")
    x = torch.randn(2, 5, 6)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))  # it begins at zero
    assert a.abs().max() <= 1 / math.sqrt(6)  # Kaiming uniform with a = √5
    assert float(a.detach().std()) == pytest.approx(1 / math.sqrt(18), rel=0.3)
    with torch.no_grad():
        b.normal_()
    out, mixed = layer(x), torch.randn(2, 5, 10)
    found = torch.autograd.grad((out * mixed).sum(), (a, b))
    g, rows = mixed.flatten(0, 1), x.flatten(0, 1)
    by_hand = x @ layer.weight.T + layer.bias + scale * (x @ a.T) @ b.T
    torch.testing.assert_close(out, by_hand, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[0], scale * (g @ b).T @ rows, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], scale * g.T @ (rows @ a.T), rtol=1e-5, atol=1e-5)


def test_it_has_its_layers_number_format() -> None:
    layer = nn.Linear(6, 10).to(torch.bfloat16)
    add_update(layer, 3, 1.0)
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    assert {name for name, _ in layer.named_parameters()} == {
        "weight",
        "bias",
        "lora_A.weight",
        "lora_B.weight",
    }
