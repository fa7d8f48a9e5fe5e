"""Rows that are drawn: gradients are right on average, and vary less than by plain sampling."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.storages import Sampled
from bsr_explorer.storages.functions import Linear
from bsr_explorer.storages.keeper import Keeper

DRAWS = 2000


def operands(tokens: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """x (3, tokens, 4), whose rows differ in length (a few are far longer), and the gradient of 2 outputs."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.rand(3, tokens, 1, generator=generator) + 8 * (
        torch.rand(3, tokens, 1, generator=generator) > 0.9
    )
    return lengths * torch.randn(3, tokens, 4, generator=generator), torch.randn(
        3, tokens, 2, generator=generator
    )


def draws(x: torch.Tensor, gradient: torch.Tensor, packing: Sampled) -> torch.Tensor:
    """The weight's gradients (draws, 8)."""
    rows = gradient.flatten(0, 1)
    torch.manual_seed(1)
    return torch.stack([packing.weight_gradient(packing.pack(x), rows).flatten() for _ in range(DRAWS)])


def plain(x: torch.Tensor, gradient: torch.Tensor, kept: int) -> torch.Tensor:
    """The same by as many rows, all drawn by their lengths."""
    rows, g = x.flatten(0, 1), gradient.flatten(0, 1)
    p = rows.norm(dim=1) / rows.norm(dim=1).sum()
    torch.manual_seed(1)
    made = []
    for _ in range(DRAWS):
        drawn = torch.multinomial(p, kept, replacement=True)
        made.append(((g[drawn] / (kept * p[drawn]).unsqueeze(1)).T @ rows[drawn]).flatten())
    return torch.stack(made)


@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_gradients_are_right_on_average(ratio: float) -> None:
    """The mean of 2,000 draws within 3 standard errors, along each of 8 directions and along their sum."""
    x, gradient = operands()
    found = draws(x, gradient, Sampled(ratio))
    exact = (gradient.flatten(0, 1).T @ x.flatten(0, 1)).flatten()
    for error in (*(found - exact).T, (found - exact).sum(1)):
        assert error.mean().abs() < 3 * error.std() / DRAWS**0.5
        assert error.std() > 0


@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_they_vary_less_than_by_plain_sampling(ratio: float) -> None:
    x, gradient = operands()
    packing = Sampled(ratio)
    ours, theirs = draws(x, gradient, packing), plain(x, gradient, packing.kept(60))
    assert ours.var(0).sum() < 0.9 * theirs.var(0).sum()
    exact = (gradient.flatten(0, 1).T @ x.flatten(0, 1)).flatten()
    assert ((theirs - exact).mean(0).abs() < 4 * theirs.std(0) / DRAWS**0.5).all()  # it is what it is called


def test_the_longest_rows_are_kept_as_they_are() -> None:
    x, _ = operands()
    kept, places = Sampled(0.5).pack(x)
    rows = x.flatten(0, 1)
    longest = rows.norm(dim=1).sort(descending=True).indices
    assert places[0] == longest[0]
    assert torch.equal(kept[0], rows[longest[0]])
    assert len(kept) == 30


def test_what_it_stands_for_is_what_the_gradient_is_made_of() -> None:
    x, gradient = operands()
    packing = Sampled(0.4)
    packed = packing.pack(x)
    again = packing.unpack(packed, tuple(x.shape), x.dtype)
    expected = gradient.flatten(0, 1).T @ again.flatten(0, 1)
    torch.testing.assert_close(
        packing.weight_gradient(packed, gradient.flatten(0, 1)), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("ratio", "tokens"), [(1.0, 20), (0.1, 3)])
def test_where_all_rows_are_kept_it_is_exact(ratio: float, tokens: int) -> None:
    """Those of few tokens are."""
    x, gradient = operands(tokens)
    x.requires_grad_()
    weight = torch.randn(2, 4, requires_grad=True)
    out = Linear.apply(x, weight, None, Keeper(Sampled(ratio)).keep(x))
    (found,) = torch.autograd.grad((out * gradient).sum(), weight)
    torch.testing.assert_close(found, gradient.flatten(0, 1).T @ x.flatten(0, 1))


def test_even_of_zeros_something_is_drawn() -> None:
    x = torch.zeros(2, 20, 4)
    kept, places = Sampled(0.3).pack(x)
    assert torch.isfinite(kept).all() and not kept.any()
    assert ((places >= 0) & (places < 40)).all()


def test_beside_a_row_beyond_all_measure_something_is_drawn() -> None:
    x = torch.full((2, 20, 4), 1e-25)
    x[0, 3] = 1e15
    kept, places = Sampled(0.3).pack(x)
    assert (places == 3).sum() == 1
    assert torch.isfinite(kept).all()


def test_as_many_rows_as_are_sure_are_as_they_were() -> None:
    """Whichever are drawn: the others are scaled by one share, over their probability."""
    x, _ = operands()
    rows = x.flatten(0, 1)
    p = rows.norm(dim=1) / rows.norm(dim=1).sum()
    kept, places = Sampled(0.4).pack(x)
    factors = kept.norm(dim=1) / rows[places].norm(dim=1)
    sure = (factors - 1).abs() < 1e-5
    shares = (factors * p[places])[~sure]
    assert 0 < int(sure.sum()) < len(kept)
    assert len(set(places[sure].tolist())) == int(sure.sum())
    torch.testing.assert_close(shares, shares[:1].expand(len(shares)))
    assert float(shares[0]) * len(shares) == pytest.approx(1 - float(p[places[sure]].sum()), rel=1e-4)


def test_bytes_are_those_of_rows_and_positions() -> None:
    assert Sampled(0.3).kept(100) == 30
    assert Sampled(0.3).kept(20) == 10  # at least
    assert Sampled(0.3).kept(5) == 5
    assert Sampled(0.3).bytes((4, 25, 8), "bf16") == 30 * (8 * 2 + 4)
    assert Sampled(0.3).gradient_flops((4, 25, 8), 6) == 2 * 30 * 8 * 6
