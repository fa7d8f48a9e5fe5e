"""Mixers beside a model, against the same written out in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import gelu

from bsr_explorer.methods import Linear, Losa
from bsr_explorer.methods.applied.losa import swap

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 12,
    "depth": 3,
    "num_heads": 3,
    "num_classes": 5,
}
OTHERS: tuple[dict[str, Any], ...] = (
    {},
    {"class_token": False, "global_pool": "avg"},
    {"reg_tokens": 2, "depth": 1},
)
every_other = pytest.mark.parametrize("options", OTHERS, ids=lambda options: "+".join(options) or "plain")


def made(options: dict[str, Any], moved: bool = True) -> Any:
    torch.manual_seed(0)
    model = Losa(2).apply(VisionTransformer(**{**SMALL, **options}))
    with torch.no_grad():
        for parameter in model.parameters() if moved else ():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def by_hand(model: Any, images: Tensor) -> Tensor:
    """The formula, with operations of torch alone."""

    def over_channels(mixer: Any, u: Tensor) -> Tensor:
        hidden = gelu(mixer.norm(u) @ mixer.down.weight.T + mixer.down.bias)
        return hidden @ mixer.up.weight.T + mixer.up.bias

    def over_tokens(mixer: Any, u: Tensor) -> Tensor:
        hidden = torch.einsum("bnd,rn->brd", mixer.norm(u), mixer.down.weight) + mixer.down.bias[:, None]
        return torch.einsum("brd,nr->bnd", gelu(hidden), mixer.up.weight) + mixer.up.bias[:, None]

    b: Tensor = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    y = torch.zeros(())
    for block in model.blocks:
        b = type(block).forward(block, b)
        y = y + over_channels(block.losa.channels, y + b)
        y = y + over_tokens(block.losa.tokens, y + b)
    logits: Tensor = model.forward_head(model.norm(b + y))
    return logits


@every_other
def test_outputs_and_gradients_are_those_of_plain_torch(options: dict[str, Any]) -> None:
    model, images = made(options), torch.randn(2, 3, 16, 16)
    out = model(images)
    out.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    expected = by_hand(model, images)
    expected.square().sum().backward()
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-3, atol=1e-4)


@every_other
def test_at_first_it_is_the_linear_probe_bit_for_bit(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = Linear().apply(VisionTransformer(**{**SMALL, **options}))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(made(options, moved=False)(images), plain(images))


def test_nothing_of_the_blocks_has_a_graph() -> None:
    model, seen = made({}), list[Tensor]()
    for block in model.blocks:
        for module in (block.norm1, block.attn, block.mlp):
            module.register_forward_hook(lambda module, inputs, out: seen.append(out))
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert len(seen) == 9
    assert all(out.grad_fn is None and not out.requires_grad for out in seen)


def test_tokens_and_channels_change_places_and_back() -> None:
    x = torch.randn(2, 3, 5, requires_grad=True)
    out = swap(x)
    assert out.is_contiguous()
    assert torch.equal(out, x.transpose(1, 2))
    weights = torch.randn(2, 5, 3)
    (out * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights.transpose(1, 2))
