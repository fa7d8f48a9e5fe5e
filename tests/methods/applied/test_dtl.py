"""The side sum beside a model, against the same written out in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from bsr_explorer.methods import Dtl, Linear
from bsr_explorer.methods.applied.dtl import swish

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 12,
    "depth": 4,
    "num_heads": 3,
    "num_classes": 5,
}
BARE = {"class_token": False, "global_pool": "avg"}


def made(first: int, moved: bool = True, **options: Any) -> Any:
    """A model with a side sum; ``moved``: away from where it starts."""
    torch.manual_seed(0)
    model = Dtl(2, first).apply(VisionTransformer(**{**SMALL, **options}))
    with torch.no_grad():
        for parameter in model.parameters() if moved else ():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def by_hand(model: Any, images: Tensor, first: int) -> Tensor:
    """The formula, with operations of torch alone."""
    x, total = model.norm_pre(model._pos_embed(model.patch_embed(images))), torch.zeros(())
    for number, block in enumerate(model.blocks):
        total = total + x @ block.dtl.A.weight.T @ block.dtl.B.weight.T
        x = type(block).forward(block, x)
        if number >= first:
            x = x + total * torch.sigmoid(100 * total)
    logits: Tensor = model.forward_head(model.norm(x))
    return logits


@pytest.mark.parametrize("options", [{}, BARE], ids=["plain", "no class token"])
@pytest.mark.parametrize("first", [0, 2, 3])
def test_outputs_and_gradients_are_those_of_plain_torch(first: int, options: dict[str, Any]) -> None:
    model, images = made(first, **options), torch.randn(2, 3, 16, 16)
    out = model(images)
    out.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    expected = by_hand(model, images, first)
    expected.square().sum().backward()
    torch.testing.assert_close(out, expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-4, atol=1e-5)


def test_at_first_it_is_the_linear_probe_bit_for_bit() -> None:
    torch.manual_seed(0)
    plain, images = Linear().apply(VisionTransformer(**SMALL)), torch.randn(2, 3, 16, 16)
    assert torch.equal(made(1, moved=False)(images), plain(images))


@pytest.mark.parametrize("first", [0, 2, 3])
def test_blocks_up_to_the_first_addition_have_no_graph(first: int) -> None:
    model, live = made(first), dict[int, bool]()
    for number, block in enumerate(model.blocks):
        block.mlp.register_forward_hook(
            lambda mlp, inputs, out, number=number: live.__setitem__(number, out.grad_fn is not None)
        )
    model(torch.randn(2, 3, 16, 16))
    assert live == {number: number > first for number in range(4)}


def test_swish_has_the_gradient_of_its_formula_and_keeps_its_input_alone() -> None:
    torch.manual_seed(0)
    ours = (0.02 * torch.randn(3, 7, dtype=torch.float64)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    saved = list[Tensor]()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        found = swish(ours)
    expected = theirs * torch.sigmoid(100 * theirs)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert [x.data_ptr() for x in saved] == [ours.data_ptr()]


def test_swish_is_finite_where_16_bits_overflow() -> None:
    x = torch.tensor([-1e4, -700.0, 0.0, 700.0, 1e4], dtype=torch.float16, requires_grad=True)
    swish(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 0.5, 1, 1]
