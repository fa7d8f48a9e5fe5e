"""The loss in chunks is the loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bsr_explorer.models.language.loss import InChunks, chunked_loss, next_token_loss


@pytest.mark.parametrize("chunk", [1, 4, 18, 100])
def test_loss_and_gradients_are_those_of_all_at_once(chunk: int) -> None:
    torch.manual_seed(0)
    head, labels = nn.Linear(6, 11, bias=False), torch.randint(11, (2, 9))
    x = torch.randn(2, 9, 6, requires_grad=True)
    found = [
        (loss, *torch.autograd.grad(3 * loss, [x, head.weight]))
        for loss in (next_token_loss(head(x), labels), chunked_loss(head, chunk, x, labels))
    ]
    for whole, parts in zip(*found, strict=True):
        assert torch.allclose(whole, parts, atol=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    x, weight = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 4))
    labels = torch.randint(4, (5,))
    whole = torch.autograd.grad(F.cross_entropy(x @ weight.t(), labels), [x, weight])
    parts = torch.autograd.grad(InChunks.apply(x, weight, labels, 2), [x, weight])
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-6)  # logits are in 32 bits


def test_what_is_frozen_gets_no_gradient() -> None:
    head, labels = nn.Linear(6, 11, bias=False).requires_grad_(False), torch.randint(11, (2, 3))
    x = torch.randn(2, 3, 6, requires_grad=True)
    chunked_loss(head, 2, x, labels).backward()
    assert head.weight.grad is None and x.grad is not None


def test_it_keeps_no_logits() -> None:
    kept: list[torch.Tensor] = []
    head, x = nn.Linear(6, 1000, bias=False), torch.randn(2, 9, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        chunked_loss(head, 4, x, torch.zeros(2, 9, dtype=torch.int64))
    assert max(t.numel() for t in kept) == head.weight.numel()
    assert all(t.shape != (18, 1000) for t in kept)
