"""Blocks of a real model that run again in backward, to the same gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.methods.applied.checkpoint import draws

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


def test_what_is_random_in_a_block_is_drawn_again_as_it_was() -> None:
    model = build(CONFIG.with_method("checkpoint(blocks=(1, 2))")).train()
    seen: dict[int, list[Tensor]] = {1: [], 2: []}
    for number, found in seen.items():
        block = model.blocks[number]  # type: ignore[index, union-attr]
        block.mlp.drop1.p = 0.5
        assert draws(block) and not draws(model.blocks[0])  # type: ignore[index, union-attr]

        def look(module: object, given: object, made: Tensor, found: list[Tensor] = found) -> None:
            found.append(made.detach() == 0)

        block.mlp.drop1.register_forward_hook(look)
    for _ in range(2):
        model(torch.ones(1, 3, 48, 48)).sum().backward()
    for first, again, next_first, next_again in seen.values():
        assert torch.equal(first, again) and torch.equal(next_first, next_again)
        assert not torch.equal(first, next_first)
    assert not any(torch.equal(seen[1][0], other) for other in (seen[2][0], seen[2][2]))
    assert not torch.equal(seen[1][2], seen[2][0])
