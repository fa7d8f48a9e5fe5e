"""A mixture of experts: who is sent where, and what comes of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.models.moe.layer import BalancedLoss, Gate, Mixture, capacity_of_image


def layer(capacity: float | None = None, top: int = 2, noise: bool = False) -> Mixture:
    """Of 4 experts for tokens of 6 channels."""
    torch.manual_seed(0)
    made = Mixture(6, 5, 4, top, capacity, noise)
    torch.nn.init.normal_(made.gate.route.weight)
    for each in (made.fc1, made.fc2):
        torch.nn.init.normal_(each.weight)
        torch.nn.init.normal_(each.bias)
    return made


def by_hand(made: Mixture, x: Tensor, most: int | None = None) -> Tensor:
    """Token by token; an expert takes at most so many."""
    out, taken = torch.zeros_like(x), [0] * 4
    for image, place in ((i, n) for i in range(x.shape[0]) for n in range(x.shape[1])):
        token = x[image, place]
        gates, chosen = made.gate.route(token).softmax(-1).topk(made.gate.top)
        for gate, expert in zip(gates, chosen.tolist(), strict=True):
            if most is not None and taken[expert] == most:
                continue
            taken[expert] += 1
            hidden = F.gelu(F.linear(token, made.fc1.weight[expert].t(), made.fc1.bias[expert]))
            out[image, place] += gate * F.linear(hidden, made.fc2.weight[expert].t(), made.fc2.bias[expert])
    return out


@pytest.mark.parametrize("top", [1, 2, 4])
def test_without_a_capacity_every_token_goes_to_its_experts(top: int) -> None:
    made, x = layer(top=top).eval(), torch.randn(2, 7, 6)
    assert torch.allclose(made(x), by_hand(made, x), atol=1e-5)


@pytest.mark.parametrize("capacity", [0.5, 1.0, 4.0])
def test_with_a_capacity_tokens_beyond_it_skip_the_expert(capacity: float) -> None:
    made, x = layer(capacity).eval(), torch.randn(2, 7, 6)
    most = 2 * capacity_of_image(capacity, 2, 7, 4)
    assert torch.allclose(made(x), by_hand(made, x, most), atol=1e-5)
    full = by_hand(made, x)
    assert torch.allclose(made(x), full, atol=1e-5) == (capacity == 4)


def test_both_forms_have_the_same_gradients_where_nothing_is_left_out() -> None:
    found = []
    for capacity in (None, 4.0):
        made = layer(capacity)
        x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(3), requires_grad=True)
        loss = made(x).square().sum() + made.take_unbalanced()
        found.append(torch.autograd.grad(loss, [x, *made.parameters()]))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_gates_are_no_longer_normalised() -> None:
    gate = Gate(6, 4, 2, noise=False).eval()
    gates, chosen, _ = gate(torch.randn(5, 6))
    assert (gates.sum(-1) < 1).all() and chosen.shape == (5, 2)


def test_the_gate_is_noisy_in_training_only() -> None:
    gate, tokens = Gate(6, 4, 2, noise=True), torch.randn(50, 6)
    assert not torch.equal(gate(tokens)[0], gate(tokens)[0])
    gate.eval()
    assert torch.equal(gate(tokens)[0], gate(tokens)[0])


def test_unbalanced_is_zero_if_all_experts_get_as_much() -> None:
    gate = Gate(4, 4, 1, noise=False)
    gate.route.weight.data = 50 * torch.eye(4)
    *_, even = gate(torch.eye(4))
    *_, one_sided = gate(torch.eye(4)[:1].expand(4, 4))
    assert even is not None and one_sided is not None
    assert even.item() == pytest.approx(0, abs=1e-6)
    assert one_sided.item() == pytest.approx(
        4, rel=1e-3
    )  # the variance of (4, 0, 0, 0) over the mean's square


def test_load_is_a_chance_that_has_a_gradient() -> None:
    gate = Gate(6, 4, 2, noise=True)
    *_, unbalanced = gate(torch.randn(9, 6))
    assert unbalanced is not None
    unbalanced.backward()
    assert gate.noise is not None and gate.noise.weight.grad is not None
    assert gate.noise.weight.grad.abs().sum() > 0


def test_what_is_unbalanced_is_a_part_of_the_loss_once() -> None:
    made, logits, labels = layer(), torch.randn(3, 5), torch.tensor([0, 1, 2])
    made(torch.randn(2, 7, 6))
    unbalanced = made.unbalanced
    assert unbalanced is not None
    loss = BalancedLoss([made], 0.5)(logits, labels)
    assert torch.allclose(loss, F.cross_entropy(logits, labels) + 0.5 * unbalanced)
    assert made.unbalanced is None


@pytest.mark.parametrize(("capacity", "rows"), [(1.0, 4), (0.1, 1), (2.0, 7)])
def test_capacity_is_rounded_up(capacity: float, rows: int) -> None:
    assert capacity_of_image(capacity, 2, 7, 4) == rows
