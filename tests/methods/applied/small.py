"""Small vision transformers of timm to which a method is applied, and how they are compared with plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from bsr_explorer.methods import Linear, Method

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 12,
    "depth": 4,
    "num_heads": 3,
    "num_classes": 5,
}
BARE: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
"""Without a class token."""


def made(method: Method, moved: float = 0.2, **options: Any) -> Any:
    """A model with a method.

    Args:
        moved: how far what trains is moved away from where it starts.
        options: of timm's model, beside or instead of ``SMALL``.
    """
    torch.manual_seed(0)
    model = method.apply(VisionTransformer(**{**SMALL, **options}))
    with torch.no_grad():
        for parameter in model.parameters() if moved else ():
            if parameter.requires_grad:
                parameter.add_(moved * torch.randn(parameter.shape))
    return model


def pictures(**options: Any) -> Tensor:
    """Two images of a model's size."""
    size = {**SMALL, **options}["img_size"]
    return torch.randn(2, 3, size, size)


def check_like(
    model: Any, images: Tensor, by_hand: Callable[[Any, Tensor], Tensor], rtol: float = 1e-4
) -> None:
    """Outputs and gradients of all that trains are those of a formula in plain torch."""
    out = model(images)
    out.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    expected = by_hand(model, images)
    expected.square().sum().backward()
    torch.testing.assert_close(out, expected, rtol=rtol, atol=1e-5)
    for name, gradient in found.items():
        other = model.get_parameter(name).grad
        wanted = torch.zeros_like(gradient) if other is None else other
        torch.testing.assert_close(gradient, wanted, rtol=10 * rtol, atol=1e-4)


def check_begins_as_linear(method: Method, **options: Any) -> None:
    """At first it computes what the linear probe does, bit for bit, with a graph and without."""
    torch.manual_seed(0)
    plain = Linear().apply(VisionTransformer(**{**SMALL, **options}))
    model, images = made(method, moved=0.0, **options), pictures(**options)
    assert torch.equal(model(images), plain(images))
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))


def entered(model: Any, images: Tensor) -> Tensor:
    """What enters the first block (B, N, D)."""
    tokens: Tensor = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    return tokens


def plainly(block: nn.Module, x: Tensor) -> Tensor:
    """A block without its hooks."""
    out: Tensor = type(block).forward(block, x)
    return out


def live_blocks(model: Any, images: Tensor) -> set[int]:
    """The blocks (0-based) within which something has a graph."""
    live = set[int]()

    def note(number: int, out: Tensor) -> None:
        if out.grad_fn is not None:
            live.add(number)

    hooks = [
        module.register_forward_hook(lambda module, inputs, out, number=number: note(number, out))
        for number, block in enumerate(model.blocks)
        for module in (block.norm1, block.attn, block.norm2, block.mlp)
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return live
