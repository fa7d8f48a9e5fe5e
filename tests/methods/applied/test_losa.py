"""Mixers beside a model, against the same written out in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from bsr_explorer.methods import Losa
from bsr_explorer.methods.applied.losa import swap
from tests.methods.applied.small import (
    BARE,
    check_begins_as_linear,
    check_like,
    entered,
    live_blocks,
    made,
    pictures,
    plainly,
)

OTHERS: tuple[dict[str, Any], ...] = (
    {},
    BARE,
    {"reg_tokens": 2, "depth": 1},
)
every_other = pytest.mark.parametrize("options", OTHERS, ids=lambda options: "+".join(options) or "plain")


def by_hand(model: Any, images: Tensor) -> Tensor:
    """The formula, with operations of torch alone."""

    def over_channels(mixer: Any, u: Tensor) -> Tensor:
        hidden = gelu(mixer.norm(u) @ mixer.down.weight.T + mixer.down.bias)
        return hidden @ mixer.up.weight.T + mixer.up.bias

    def over_tokens(mixer: Any, u: Tensor) -> Tensor:
        hidden = torch.einsum("bnd,rn->brd", mixer.norm(u), mixer.down.weight) + mixer.down.bias[:, None]
        return torch.einsum("brd,nr->bnd", gelu(hidden), mixer.up.weight) + mixer.up.bias[:, None]

    b, y = entered(model, images), torch.zeros(())
    for block in model.blocks:
        b = plainly(block, b)
        y = y + over_channels(block.losa.channels, y + b)
        y = y + over_tokens(block.losa.tokens, y + b)
    logits: Tensor = model.forward_head(model.norm(b + y))
    return logits


@every_other
def test_outputs_and_gradients_are_those_of_plain_torch(options: dict[str, Any]) -> None:
    check_like(made(Losa(2), **options), pictures(), by_hand)


@every_other
def test_at_first_it_is_the_linear_probe_bit_for_bit(options: dict[str, Any]) -> None:
    check_begins_as_linear(Losa(2), **options)


def test_nothing_of_the_blocks_has_a_graph() -> None:
    assert live_blocks(made(Losa(2)), pictures()) == set()


def test_tokens_and_channels_change_places_and_back() -> None:
    x = torch.randn(2, 3, 5, requires_grad=True)
    out = swap(x)
    assert out.is_contiguous()
    assert torch.equal(out, x.transpose(1, 2))
    weights = torch.randn(2, 5, 3)
    (out * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights.transpose(1, 2))
