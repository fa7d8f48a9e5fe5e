"""A model that is turned from step to step."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.methods.applied.moving import let_skip, remember, sampled, turn, turned
from bsr_explorer.methods.steps import EVERYTHING, Shape

pytestmark = pytest.mark.usefixtures("toy")


def test_what_rests_has_no_gradient_and_what_never_trains_is_left_alone() -> None:
    model = build(Config("toy", 48, method="last(k=2)"))
    model(torch.randn(2, 3, 48, 48)).sum().backward()
    turn(model, Shape(rests=("blocks.3", "blocks.0")))
    for name, p in model.named_parameters():
        trains = name.startswith(("blocks.2.", "norm.", "head."))
        assert p.requires_grad == trains, name
        assert (p.grad is not None) == trains, name
    turn(model, EVERYTHING)
    assert all(p.requires_grad for p in model.get_submodule("blocks.3").parameters())
    assert not any(p.requires_grad for p in model.get_submodule("blocks.0").parameters())


def test_a_model_that_nobody_turned_is_as_it_was_made() -> None:
    model = build(Config("toy", 48, method="linear"))
    let_skip(model, ["blocks.1.mlp"])
    assert not hasattr(model, "turned")
    assert turned(model).shape == EVERYTHING
    assert turned(model).may_train == {"head.weight", "head.bias"}


def test_a_skipped_branch_has_no_graph() -> None:
    model = build(Config("toy", 48, method="full"))
    let_skip(model, ["blocks.1.mlp"])
    turn(model, Shape(rests=("blocks.1.norm2", "blocks.1.mlp"), skips=("blocks.1.mlp",)))
    seen: list[torch.Tensor] = []
    for path in ("blocks.1.mlp", "blocks.1.attn"):
        model.get_submodule(path).register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.randn(2, 3, 48, 48))
    attention, mlp = seen
    assert attention.requires_grad and mlp.grad_fn is None


def test_what_is_remembered_stays_in_fp32() -> None:
    model = build(Config("toy", 48, method="full"))
    remember(model, torch.full((3,), 1 / 3))
    assert torch.equal(model.to(torch.bfloat16).get_buffer("remembered.values"), torch.full((3,), 1 / 3))


def test_entries_are_evenly_spaced() -> None:
    weights = [torch.arange(12.0).view(3, 4), torch.arange(5.0)]
    assert sampled(weights, 4).tolist() == [[0, 3, 6, 9], [0, 1, 2, 3]]
