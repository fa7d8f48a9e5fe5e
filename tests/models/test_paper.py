"""Models on paper: everything but the values."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from bsr_explorer.models.paper import on_paper, unfilled


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "resnet18"])
def test_a_model_on_paper_has_all_that_a_real_one_has_but_values(name: str) -> None:
    real = timm.create_model(name, num_classes=3)
    with on_paper():
        drawn = timm.create_model(name, num_classes=3)
    assert [(path, type(module)) for path, module in drawn.named_modules()] == [
        (path, type(module)) for path, module in real.named_modules()
    ]
    assert all(tensor.is_meta for tensor in drawn.state_dict().values())
    for mine, theirs in (
        (drawn.state_dict(keep_vars=True), real.state_dict(keep_vars=True)),
        (dict(drawn.named_parameters()), dict(real.named_parameters())),
    ):
        assert {n: (t.shape, t.dtype, t.requires_grad) for n, t in mine.items()} == {
            n: (t.shape, t.dtype, t.requires_grad) for n, t in theirs.items()
        }


def test_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    with on_paper():
        nn.Linear(3, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_with_memory_are_filled_as_ever() -> None:
    real = torch.zeros(3)
    with on_paper():
        real.add_(2).mul_(3)
        nn.init.constant_(made := torch.zeros(3, device="cpu"), 5.0)
    assert (real.tolist(), made.tolist()) == ([6.0] * 3, [5.0] * 3)


def test_afterwards_all_is_as_before() -> None:
    with pytest.raises(ZeroDivisionError), on_paper():
        raise ZeroDivisionError
    weight = nn.Linear(3, 4).weight
    assert not weight.is_meta
    assert weight.any()


def test_only_parameters_are_left_unfilled() -> None:
    with unfilled():
        layer = torch.nn.Linear(3, 4)
        scale = torch.zeros(3).fill_(2.0)
    assert torch.equal(scale, torch.full((3,), 2.0)) and layer.weight.shape == (4, 3)
