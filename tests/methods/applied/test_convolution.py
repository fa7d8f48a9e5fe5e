"""The convolution of patch tokens, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.methods.applied.convolution import Convolution, convolve


def by_hand(x: Tensor, weight: Tensor, side: int) -> Tensor:
    """In plain torch."""
    prefix = x.shape[1] - side * side
    images = x[:, prefix:].transpose(1, 2).reshape(len(x), x.shape[2], side, side)
    made = F.conv2d(images, weight, padding=weight.shape[-1] // 2, groups=x.shape[2] // weight.shape[1])
    patches = made.flatten(2).transpose(1, 2)
    return torch.cat([x[:, :prefix], patches], dim=1) if prefix else patches


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("prefix", "channels", "out", "groups", "k", "side"),
    [
        (0, 8, 4, 2, 3, 3),
        (0, 6, 6, 1, 5, 4),
        (0, 4, 8, 4, 1, 2),
        (1, 6, 6, 6, 3, 4),
        (2, 24, 24, 24, 3, 2),
        (0, 8, 8, 2, 3, 1),
    ],
)
def test_it_has_values_and_gradients_of_torchs(
    batch: int, prefix: int, channels: int, out: int, groups: int, k: int, side: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, prefix + side * side, channels)
    weight = torch.randn(out, channels // groups, k, k)
    wanted = torch.randn(batch, prefix + side * side, out)
    ours = [t.clone().requires_grad_() for t in (x, weight)]
    theirs = [t.clone().requires_grad_() for t in (x, weight)]
    found, expected = convolve(*ours, side), by_hand(*theirs, side)
    torch.testing.assert_close(found, expected)
    (found * wanted).sum().backward()
    (expected * wanted).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
        assert one.grad is not None and one.grad.is_contiguous()
    with torch.no_grad():
        torch.testing.assert_close(convolve(x, weight, side), expected)


@pytest.mark.parametrize(("of_x", "of_weight"), [(True, False), (False, True), (True, True)])
def test_it_keeps_what_its_gradients_need(of_x: bool, of_weight: bool) -> None:
    x, saved = torch.randn(2, 10, 4, requires_grad=of_x), list[int]()
    conv = Convolution(4, 4, 3, 4, 3, x)
    conv.weight.requires_grad_(of_weight)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        out = conv(x)
    out.sum().backward()
    expected = ([x.data_ptr()] if of_weight else []) + ([conv.weight.data_ptr()] if of_x else [])
    assert saved == expected
    assert (x.grad is not None, conv.weight.grad is not None) == (of_x, of_weight)


def test_without_a_gradient_nothing_is_recorded() -> None:
    x = torch.randn(2, 9, 4)
    with torch.no_grad():
        assert Convolution(4, 2, 3, 2, 3, x)(x).grad_fn is None
