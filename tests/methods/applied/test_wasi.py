"""A linear layer of two factors, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bsr_explorer.methods.applied.wasi import FactoredLinear, SubspaceLinear
from bsr_explorer.storages import Tucker

FULL = Tucker((1.0, 1.0, 1.0))


def layer(rank: int, packing: Tucker = FULL) -> tuple[nn.Linear, FactoredLinear]:
    torch.manual_seed(0)
    plain = nn.Linear(12, 8)
    return plain, FactoredLinear(plain, rank, packing)


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    """x (3, 5, 12), and the gradient of the output."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 5, 12, generator=generator, requires_grad=True), torch.randn(
        3, 5, 8, generator=generator
    )


def test_factors_are_the_nearest_of_their_rank_and_as_large() -> None:
    plain, factored = layer(3)
    u, values, v = torch.linalg.svd(plain.weight.detach(), full_matrices=False)
    nearest = u[:, :3] * values[:3] @ v[:3]
    torch.testing.assert_close(factored.left @ factored.right, nearest)
    torch.testing.assert_close(factored.left.norm(dim=0), factored.right.norm(dim=1))


def test_of_all_ranks_it_computes_what_the_layer_did() -> None:
    plain, factored = layer(8)
    x, _ = operands()
    torch.testing.assert_close(factored(x), plain(x))
    assert factored.bias is plain.bias


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_gradients_are_those_of_the_factors(rank: int) -> None:
    """With all ranks of the input."""
    _, factored = layer(rank)
    x, mixed = operands()
    names = ("left", "right", "bias")
    found = torch.autograd.grad((factored(x) * mixed).sum(), (x, *map(factored.get_parameter, names)))
    by_hand = nn.functional.linear(x, factored.left @ factored.right, factored.bias)
    theirs = torch.autograd.grad((by_hand * mixed).sum(), (x, *map(factored.get_parameter, names)))
    for ours, expected in zip(found, theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_with_fewer_ranks_of_the_input_they_are_those_of_its_decomposition() -> None:
    _, factored = layer(3, Tucker((2, 3, 4)))
    x, mixed = operands()
    out = factored(x)
    of_left, of_right = torch.autograd.grad((out * mixed).sum(), (factored.left, factored.right))
    images, tokens, channels = factored.kept.running.split([3 * 2, 5 * 3, 12 * 4])  # type: ignore[union-attr]
    bases = images.view(3, 2), tokens.view(5, 3), channels.view(12, 4)
    again = torch.einsum("bni,ba,nc,id,ea,fc,gd->efg", x.detach(), *bases, *bases)
    dense = mixed.flatten(0, 1).T @ again.flatten(0, 1)
    for found, expected in ((of_left, dense @ factored.right.T), (of_right, factored.left.T @ dense)):
        assert (found - expected).norm() / expected.norm() < 1e-5


def test_a_step_is_that_of_the_dense_gradient_where_matrices_of_this_rank_can_follow() -> None:
    """Its projection on the tangent space gives the same gradients, and the step lies within it."""
    _, factored = layer(3)
    x, mixed = operands()
    of_left, of_right = torch.autograd.grad((factored(x) * mixed).sum(), (factored.left, factored.right))
    left, right = factored.left.detach(), factored.right.detach()
    dense = mixed.flatten(0, 1).T @ x.detach().flatten(0, 1)
    columns, rows = torch.linalg.qr(left).Q, torch.linalg.qr(right.T).Q

    def projected(matrix: torch.Tensor) -> torch.Tensor:
        onto = columns @ columns.T
        return onto @ matrix + matrix @ rows @ rows.T - onto @ matrix @ rows @ rows.T

    assert (projected(dense) - dense).norm() > 0.1 * dense.norm()
    torch.testing.assert_close(of_left, projected(dense) @ right.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_right, left.T @ projected(dense), rtol=1e-4, atol=1e-5)
    step = of_left @ right + left @ of_right  # to first order
    torch.testing.assert_close(projected(step), step, rtol=1e-4, atol=1e-5)
    assert (step * dense).sum() > 0


def test_two_forward_passes_before_a_backward_pass() -> None:
    _, factored = layer(3)
    x, _ = operands()
    first = factored(x)
    factored(x)
    first.sum().backward()
    assert factored.left.grad is not None


def test_without_a_graph_it_computes_the_same_and_remembers_nothing() -> None:
    _, factored = layer(3)
    x = operands()[0].detach()
    with torch.no_grad():
        without = factored(x)
    assert factored.kept.running is not None
    assert not factored.kept.running.numel()
    assert torch.equal(factored(x), without)
    with torch.autocast("cpu", torch.bfloat16):
        assert factored(x).dtype == torch.bfloat16
        torch.testing.assert_close(factored(x).float(), without, rtol=0.05, atol=0.05)


# --- the authors' step ------------------------------------------------------------------------------------


def stepped(
    rank: int, packing: Tucker, rate: float, decay: float = 0.0
) -> tuple[SubspaceLinear, torch.Tensor]:
    """A layer after a backward pass, and the dense weight that a step of plain SGD makes of its weight before."""
    torch.manual_seed(0)
    layer = SubspaceLinear(nn.Linear(12, 8), rank, packing)
    layer.group = {"lr": rate, "weight_decay": decay}
    weight = (layer.left @ layer.right).clone()
    x, mixed = operands()
    (layer(x) * mixed).sum().backward()
    images, tokens, channels = packing.found((3, 5, 12))
    parts = layer.kept.running.split([3 * images, 5 * tokens, 12 * channels])  # type: ignore[union-attr]
    bases = parts[0].view(3, images), parts[1].view(5, tokens), parts[2].view(12, channels)
    again = torch.einsum("bni,ba,nc,id,ea,fc,gd->efg", x.detach(), *bases, *bases)
    gradient = mixed.flatten(0, 1).T @ again.flatten(0, 1)
    return layer, (1 - rate * decay) * weight - rate * gradient


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("ranks", [(1.0, 1.0, 1.0), (2, 3, 4)])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_authors_step_is_the_dense_step_projected(
    rank: int, ranks: tuple[float, float, float], decay: float
) -> None:
    """On the columns that one iteration finds: those of (W − η·G)·(W − η·G)ᵀ·L."""
    torch.manual_seed(0)
    before = SubspaceLinear(nn.Linear(12, 8), rank, FULL).left.clone()
    layer, dense = stepped(rank, Tucker(ranks), 0.1, decay)
    onto = torch.linalg.qr(dense @ (dense.T @ before)).Q
    torch.testing.assert_close(layer.left @ layer.left.T, onto @ onto.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.left @ layer.right, onto @ onto.T @ dense, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.left.T @ layer.left, torch.eye(rank), rtol=1e-5, atol=1e-5)
    assert (onto @ onto.T @ dense - dense).norm() > 0.1 * dense.norm()  # it could not follow all of it


def test_of_full_rank_it_is_the_step_of_plain_sgd() -> None:
    layer, dense = stepped(8, Tucker((2, 3, 4)), 0.1)
    torch.testing.assert_close(layer.left @ layer.right, dense, rtol=1e-4, atol=1e-5)


def test_a_rate_of_zero_moves_nothing() -> None:
    torch.manual_seed(0)
    before = SubspaceLinear(nn.Linear(12, 8), 3, FULL)
    layer, _ = stepped(3, FULL, 0.0)
    torch.testing.assert_close(layer.left @ layer.right, before.left @ before.right, rtol=1e-5, atol=1e-6)


def test_what_is_passed_on_is_that_of_the_factors_before_the_step() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(12, 8)
    own, factored = SubspaceLinear(plain, 3, FULL), FactoredLinear(plain, 3, FULL)
    own.group = {"lr": 0.5, "weight_decay": 0.0}
    x, mixed = operands()
    found = torch.autograd.grad((own(x) * mixed).sum(), x)[0]
    expected = torch.autograd.grad((factored(x) * mixed).sum(), x)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert own.left.grad is None
