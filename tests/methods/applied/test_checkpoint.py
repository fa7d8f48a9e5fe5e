"""Blocks of a real model that run again in backward, to the same gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build

pytestmark = pytest.mark.usefixtures("toy")


CONFIG = Config("toy", image_size=48, batch_size=2, method="full")


BSR = "bsr(blocks=(1, 3), keep={1: 0.5, 2: 0.5}, fuse=True)"


def gradients(config: Config) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The loss of a random batch, and the gradient of every parameter."""
    model = build(config, seed=5).train()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(config.batch_size, 3, config.image_size, config.image_size, generator=generator)
    loss = F.cross_entropy(model(images), torch.arange(config.batch_size))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("attention", ["fused", "math"])
@pytest.mark.parametrize("method", ["full", "last(k=2)", "bitfit", BSR])
@pytest.mark.parametrize("checkpoint", ["checkpoint", "checkpoint(blocks=(1, 2))"])
def test_gradients_are_the_same_to_the_bit(method: str, checkpoint: str, attention: str) -> None:
    config = replace(CONFIG, attention=attention)
    loss, plain = gradients(config.with_method(method))
    again_loss, again = gradients(config.with_method(f"{method}+{checkpoint}"))
    assert torch.equal(again_loss, loss)
    assert again.keys() == plain.keys()
    assert any(gradient is not None for gradient in plain.values())
    for name, gradient in plain.items():
        other = again[name]
        assert (gradient is None and other is None) or torch.equal(gradient, other), name  # type: ignore[arg-type]


def test_chosen_blocks_run_again_and_others_do_not() -> None:
    model, runs = build(CONFIG.with_method("checkpoint(blocks=(1, 2))")), [0] * 4
    for number, block in enumerate(model.blocks):  # type: ignore[arg-type]

        def count(module: object, args: object, number: int = number) -> None:
            runs[number] += 1

        block.norm1.register_forward_pre_hook(count)
    model(torch.zeros(1, 3, 48, 48)).sum().backward()
    assert runs == [1, 2, 2, 1]


def test_names_in_the_state_dict_do_not_change() -> None:
    assert list(build(CONFIG.with_method("checkpoint")).state_dict()) == list(build(CONFIG).state_dict())
