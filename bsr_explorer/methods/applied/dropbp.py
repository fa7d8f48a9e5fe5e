"""How sensitive gradients are to skipping a residual branch, and what each branch computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from bsr_explorer.methods.applied.moving import turn
from bsr_explorer.methods.moving import modules_of
from bsr_explorer.methods.steps import EVERYTHING, Shape

Norms = dict[str, torch.Tensor]
"""Of the gradient of each parameter, (), added up over batches."""


@contextmanager
def noting(model: nn.Module, shape: Shape, norms: Norms) -> Iterator[None]:
    """Steps of a shape pass within it; the norms of their gradients are noted."""
    hooks = []

    def note(name: str, p: torch.Tensor) -> None:
        assert p.grad is not None
        norm = torch.linalg.vector_norm(p.grad, dtype=torch.float32)
        norms[name] = norms[name] + norm if name in norms else norm

    turn(model, shape)
    try:
        for name, p in model.named_parameters():
            if p.requires_grad:
                hooks.append(p.register_post_accumulate_grad_hook(lambda p, name=name: note(name, p)))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        turn(model, EVERYTHING)


def apart(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The sum of squared differences of norms; what has none in one of the two is zero there."""
    zero = torch.zeros(())
    differences = [
        one.get(name, zero).cpu() - other.get(name, zero).cpu() for name in {**one, **other}
    ]  # in fp16, a scaled gradient may overflow
    return float(torch.stack(differences).square().nan_to_num(0, 0).sum()) if differences else 0.0


def computed(model: nn.Module, branches: Sequence[str]) -> list[int]:
    """Multiply-adds of each branch for one image, forward."""
    vit = cast(Any, model)
    tokens = int(vit.patch_embed.num_patches + vit.num_prefix_tokens)
    found = []
    for branch in branches:
        weights = [p for path in modules_of(branch) for p in model.get_submodule(path).parameters()]
        count = tokens * sum(p.numel() for p in weights if p.dim() == 2)
        products = 2 * tokens * tokens * int(vit.embed_dim) if branch.endswith(".attn") else 0
        found.append(count + products)
    return found
