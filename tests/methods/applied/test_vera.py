"""Updates of shared random matrices, against the same written out."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import linear

from bsr_explorer.methods.applied.vera import add_updates


def test_outputs_and_gradients_are_those_of_the_formula() -> None:
    """Of two layers of one shape and one of another."""
    torch.manual_seed(0)
    run = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 10, bias=False))
    model = nn.ModuleDict({"run": run})
    x, mixed = torch.randn(2, 5, 6), torch.randn(2, 5, 10)
    plain = run(x)
    layers = [layer for layer in run if isinstance(layer, nn.Linear)]
    add_updates(model, layers, 3)
    assert torch.equal(run(x), plain)  # it begins at zero
    vectors = {name: p for name, p in model.named_parameters() if name.endswith("gamma")}
    assert {float(p.detach().mean()) for name, p in vectors.items() if "lambda_d" in name} == {
        float(torch.tensor(0.1))
    }
    with torch.no_grad():
        for vector in vectors.values():
            vector.normal_()

    out, by_hand = run(x), x
    for number, layer in enumerate(layers):
        key = "10x6" if number == 2 else "6x6"
        a, b = model.get_parameter(f"vera_A.{key}"), model.get_parameter(f"vera_B.{key}")
        d, outer = (vectors[f"run.{number}.vera_lambda_{part}.gamma"] for part in "db")
        update = outer.diag() @ b @ d.diag() @ a
        by_hand = linear(by_hand, layer.weight + update, layer.bias)
    torch.testing.assert_close(out, by_hand, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad((out * mixed).sum(), list(vectors.values()))
    expected = torch.autograd.grad((by_hand * mixed).sum(), list(vectors.values()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_matrices_are_drawn_as_the_authors_draw_them_and_are_frozen() -> None:
    """Kaiming's uniform distribution: ±√(6/in)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 100).to(torch.bfloat16))
    add_updates(model, [layer for layer in model if isinstance(layer, nn.Linear)], 30)
    for name, width in (("vera_A.100x60", 60), ("vera_B.100x60", 30)):
        matrix = model.get_parameter(name)
        assert not matrix.requires_grad
        assert matrix.dtype == torch.bfloat16  # its layer's
        bound = math.sqrt(6 / width)
        assert 0.95 * bound < float(matrix.abs().max()) <= bound * 1.01
