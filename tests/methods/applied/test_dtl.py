"""The side sum beside a model, against the same written out in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from bsr_explorer.methods import Dtl
from bsr_explorer.methods.applied.dtl import swish
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


def by_hand(model: Any, images: Tensor, first: int, plus: bool) -> Tensor:
    """The formula, with operations of torch alone."""
    x, total, prefix = entered(model, images), torch.zeros(()), model.num_prefix_tokens
    for number, block in enumerate(model.blocks):
        total = total + x @ block.dtl.A.weight.T @ block.dtl.B.weight.T
        x = plainly(block, x)
        if number >= first:
            added = total * torch.sigmoid(100 * total)
            if plus:
                weight = model.blocks[first].dtl.fusion
                grid = added[:, prefix:].transpose(1, 2).unflatten(2, model.patch_embed.grid_size)
                grid = conv2d(grid, weight, padding=1, groups=len(weight)).flatten(2).transpose(1, 2)
                added = torch.cat([added[:, :prefix], grid], dim=1)
            x = x + added
    logits: Tensor = model.forward_head(model.norm(x))
    return logits


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("options", [{}, BARE, {"img_size": 24}], ids=["plain", "no class token", "odd"])
@pytest.mark.parametrize("first", [0, 2, 3])
def test_outputs_and_gradients_are_those_of_plain_torch(
    first: int, options: dict[str, Any], plus: bool
) -> None:
    model = made(Dtl(2, first, plus), **options)
    check_like(model, pictures(**options), lambda model, images: by_hand(model, images, first, plus))


@pytest.mark.parametrize("plus", [False, True])
def test_at_first_it_is_the_linear_probe_bit_for_bit(plus: bool) -> None:
    check_begins_as_linear(Dtl(2, 1, plus))


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("first", [0, 2, 3])
def test_blocks_up_to_the_first_addition_have_no_graph(first: int, plus: bool) -> None:
    assert live_blocks(made(Dtl(2, first, plus)), pictures()) == set(range(first + 1, 4))


def test_one_convolution_serves_all_blocks() -> None:
    model = made(Dtl(2, 1, plus=True))
    assert [name for name in model.state_dict() if "fusion" in name] == ["blocks.1.dtl.fusion"]


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
