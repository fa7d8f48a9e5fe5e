"""Projections on one direction: the gradient is that of what they stand for."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.storages import Projected
from bsr_explorer.storages.functions import Linear
from bsr_explorer.storages.keeper import Keeper


def operands(channels: int = 12, out: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (2, 7, channels), weight and the gradient of the output."""
    generator = torch.Generator().manual_seed(4)
    x, weight = (
        torch.randn(2, 7, channels, generator=generator),
        torch.randn(out, channels, generator=generator),
    )
    return x.requires_grad_(), weight.requires_grad_(), torch.randn(2, 7, out, generator=generator)


@pytest.mark.parametrize("width", [1, 2, 4, 12])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_weights_gradient_is_that_of_the_reconstruction(width: int, scale: float) -> None:
    x, weight, gradient = operands()
    packing = Projected(width, scale)
    kept = Keeper(packing).keep(x)
    again = kept.restore(kept.tensors)
    out = Linear.apply(x, weight, None, kept)
    assert torch.equal(out, torch.nn.functional.linear(x, weight))
    of_x, of_weight = torch.autograd.grad((out * gradient).sum(), (x, weight))
    expected = scale * gradient.flatten(0, 1).T @ again.flatten(0, 1)
    torch.testing.assert_close(of_weight, expected, rtol=1e-6, atol=1e-5)
    error = (of_weight - expected).norm() / expected.norm()
    assert error < 1e-6
    torch.testing.assert_close(of_x, gradient @ weight)


def test_the_reconstruction_is_the_projection_on_the_mean_of_the_first_batch() -> None:
    x, _, _ = operands()
    parts = x.detach().reshape(-1, 4)
    v = parts.mean(0) / parts.mean(0).norm()
    packed = Projected(4).pack(x.detach())
    again = Projected(4).unpack(packed, (2, 7, 12), torch.float32)
    torch.testing.assert_close(again.reshape(-1, 4), (parts @ v).unsqueeze(1) * v)


def test_with_one_channel_a_part_it_is_exact() -> None:
    x, _, _ = operands()
    packing = Projected(1)
    assert torch.equal(packing.unpack(packing.pack(x.detach()), (2, 7, 12), torch.float32), x)


def test_the_direction_of_the_first_batch_stays_and_is_saved() -> None:
    x, _, _ = operands()
    keeper = Keeper(Projected(4))
    first = keeper.keep(x)
    assert keeper.running is not None
    direction = keeper.running.clone()
    torch.testing.assert_close(direction.norm(), torch.tensor(1.0))
    keeper.keep(100 * x.detach().roll(1, 2))
    assert torch.equal(keeper.running, direction)
    other = Keeper(Projected(4))
    other.load_state_dict(keeper.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.keep(x).tensors, first.tensors, strict=True))


def test_what_is_packed_does_not_follow_a_direction_that_changes_later() -> None:
    x, _, _ = operands()
    keeper = Keeper(Projected(4))
    kept = keeper.keep(x)
    before = kept.restore(kept.tensors)
    assert keeper.running is not None
    keeper.running.zero_()
    assert torch.equal(kept.restore(kept.tensors), before)


def test_products_cost_what_is_said() -> None:
    packing = Projected(6)
    assert packing.pack_flops((2, 7, 12)) == 2 * 2 * 7 * 12
    assert packing.gradient_flops((2, 7, 12), 5) == 2 * 2 * 7 * 2 * 5
    assert packing.bytes((2, 7, 12), "bf16") == 2 * 7 * 2 * 2 + 6 * 4
    assert Projected(6).remembers == (6,)
