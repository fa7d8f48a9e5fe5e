"""Features put together before the last block, against the same written out in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import cosine_similarity

from bsr_explorer.methods import Linear, Sherl
from bsr_explorer.methods.applied.sherl import aggregate
from tests.methods.applied.small import BARE, SMALL, check_like, entered, live_blocks, made, pictures, plainly


def put_together(features: list[Tensor], relevance: Tensor, bias: Tensor) -> Tensor:
    """The formula, with operations of torch alone; features (B, N, H), the deepest last."""
    *shallow, deep = features
    if not shallow:
        return deep.relu()
    layers = torch.stack(shallow, dim=2)
    redundancy = cosine_similarity(layers.unsqueeze(2), layers.unsqueeze(3), dim=-1).relu().sum(-1)
    found = ((layers * deep.unsqueeze(2)) @ relevance + bias).relu() / redundancy
    weights = found / (found.sum(-1, keepdim=True) + 1e-6)
    return (deep + (weights.unsqueeze(-1) * layers).sum(2)).relu()


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_what_is_put_together_has_the_gradients_of_its_formula(layers: int) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(2, 3, 6, dtype=torch.float64) for _ in range(layers)]
    own = [torch.randn(6, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)]
    ours = [x.clone().requires_grad_() for x in (*own, *inputs)]
    theirs = [x.clone().requires_grad_() for x in (*own, *inputs)]
    weights = torch.randn(2, 3, 6, dtype=torch.float64)
    found = aggregate(ours[2:], ours[0], ours[1])
    expected = put_together(theirs[2:], theirs[0], theirs[1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        wanted = torch.zeros_like(one) if other.grad is None else other.grad
        torch.testing.assert_close(one.grad, wanted, rtol=1e-4, atol=1e-5)
    if layers > 2:
        assert all(x.grad is not None and x.grad.abs().max() > 1e-3 for x in ours)


def test_it_has_the_gradients_of_small_differences() -> None:
    """Beside autograd's, those that follow from the values alone."""
    torch.manual_seed(1)
    inputs = [torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    relevance = torch.randn(4, dtype=torch.float64, requires_grad=True)
    bias = torch.ones(1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, b, *z: aggregate(list(z), w, b), (relevance, bias, *inputs))


def by_hand(model: Any, images: Tensor) -> Tensor:
    x, features = entered(model, images), list[Tensor]()
    for block in model.blocks:
        side = block.sherl
        features.append(side.norm(side.down(x)))
        if block is model.blocks[-1]:
            joined = side.up(put_together(features, side.relevance, side.bias))
            x = joined + torch.tanh(side.gate / 0.1) * x
        x = plainly(block, x)
    logits: Tensor = model.forward_head(model.norm(x))
    return logits


@pytest.mark.parametrize("options", [{}, BARE, {"depth": 1}], ids=["plain", "no class token", "one block"])
def test_outputs_and_gradients_are_those_of_plain_torch(options: dict[str, Any]) -> None:
    check_like(made(Sherl(2), moved=0.1, **options), pictures(), by_hand)


def test_with_nothing_put_together_and_an_open_gate_it_is_the_linear_probe_bit_for_bit() -> None:
    torch.manual_seed(0)
    plain, images = Linear().apply(VisionTransformer(**SMALL)), pictures()
    torch.manual_seed(0)
    model: Any = Sherl(2).apply(VisionTransformer(**SMALL))
    side = model.blocks[-1].sherl
    with torch.no_grad():
        side.up.weight.zero_()
        side.up.bias.zero_()
        side.gate.fill_(1)  # tanh(1/0.1) is 1 in 32 bits
    assert torch.equal(model(images), plain(images))


def test_blocks_below_the_last_have_no_graph() -> None:
    assert live_blocks(made(Sherl(2)), pictures()) == {3}


def test_a_token_without_features_has_finite_weights_in_fp16() -> None:
    features = [torch.zeros(1, 2, 4, dtype=torch.float16) for _ in range(3)]
    relevance, bias = torch.ones(4), torch.tensor([0.5])
    assert torch.isfinite(aggregate(features, relevance, bias)).all()
