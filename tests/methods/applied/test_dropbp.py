"""Norms of gradients, noted while branches are skipped."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.methods import DropBP
from bsr_explorer.methods.applied.dropbp import Norms, apart, computed, noting
from bsr_explorer.methods.applied.moving import turned
from bsr_explorer.methods.steps import EVERYTHING
from tests.methods.applied.small import made, pictures

SKIPPED = DropBP().steps(4).shape(("blocks.1.attn",))


def test_norms_are_those_of_gradients_added_up_over_batches() -> None:
    model, norms = made(DropBP(), moved=0.0), Norms()
    images, expected = pictures(), dict[str, float]()
    with noting(model, SKIPPED, norms):
        for _ in range(2):
            model.zero_grad()
            model(images).square().sum().backward()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    expected[name] = expected.get(name, 0.0) + float(p.grad.norm())
    assert {name: float(norm) for name, norm in norms.items()} == pytest.approx(expected, rel=1e-5)
    assert not any(name.startswith("blocks.1.attn") for name in norms)


def test_what_goes_wrong_leaves_the_model_as_it_was() -> None:
    model, norms = made(DropBP(), moved=0.0), Norms()
    with pytest.raises(KeyboardInterrupt), noting(model, SKIPPED, norms):
        raise KeyboardInterrupt
    assert turned(model).shape == EVERYTHING
    model(pictures()).sum().backward()
    assert not norms
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())


def test_apart_is_the_sum_of_squared_differences() -> None:
    one, other = {"a": torch.tensor(3.0), "b": torch.tensor(1.0)}, {"a": torch.tensor(1.0)}
    assert apart(one, other) == 5
    assert apart({}, {}) == 0
    assert apart({"a": torch.tensor(float("inf"))}, {}) == 0


def test_a_branch_computes_its_layers_and_attention_its_products() -> None:
    model = made(DropBP(), moved=0.0)
    tokens, width = 5, 12
    attention = tokens * 4 * width * width + 2 * tokens * tokens * width
    assert computed(model, ["blocks.0.attn", "blocks.3.mlp"]) == [attention, tokens * 8 * width * width]
