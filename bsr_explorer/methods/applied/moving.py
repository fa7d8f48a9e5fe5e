"""A model of which another part trains in each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from bsr_explorer.methods.moving import REMEMBERED, first_of
from bsr_explorer.methods.steps import EVERYTHING, Shape


@dataclass
class Turned:
    """How a model is in the step that it is turned to.

    Attributes:
        may_train: names of the parameters that train in any step.
        memory: what its method remembers from step to step: plain values, and tensors.
    """

    may_train: frozenset[str]
    shape: Shape = EVERYTHING
    memory: dict[str, Any] = field(default_factory=dict)


def turned(model: nn.Module) -> Turned:
    """How a model is now; when it is first asked, all that may train does."""
    found = getattr(model, "turned", None)
    if found is None:
        trained = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
        found = Turned(trained)
        cast(Any, model).turned = found
    assert isinstance(found, Turned)
    return found


def turn(model: nn.Module, shape: Shape) -> None:
    """Let what rests in a step have no gradient, and the rest of what may train have one, in place.

    A parameter without a gradient is one that the optimiser passes over: what it remembers of it stays.
    """
    now = turned(model)
    if shape == now.shape:
        return
    for name, p in model.named_parameters():
        if name in now.may_train:
            rests = shape.rests_at(name)
            p.requires_grad_(not rests)
            if rests:
                p.grad = None
    now.shape = shape


def let_skip(model: nn.Module, branches: Iterable[str]) -> None:
    """Let a model's step pass no gradient through those of these residual branches that its shape skips, in place: they
    are fed with their input detached, so that with their parameters at rest nothing of them has a graph."""
    for branch in branches:

        def detached(module: nn.Module, inputs: Any, branch: str = branch) -> Any:
            now = getattr(model, "turned", None)  # not asked before: other methods may still say what trains
            return None if now is None or branch not in now.shape.skips else (inputs[0].detach(), *inputs[1:])

        model.get_submodule(first_of(branch)).register_forward_pre_hook(detached)


# --- what is remembered ------------------------------------------------------------------------------------


class Remembered(nn.Module):
    """Numbers that a method goes by from step to step. They stay in fp32, whatever the weights are cast to."""

    values: torch.Tensor

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.float())

    def _apply(self, fn: Callable[..., torch.Tensor], recurse: bool = True) -> Remembered:
        self.values = self.values.to(fn(self.values).device)
        return self


def remember(model: nn.Module, values: torch.Tensor) -> None:
    """Let a model have such numbers, in place."""
    model.add_module(REMEMBERED, Remembered(values))


@torch.no_grad()
def sampled(weights: Sequence[torch.Tensor], entries: int) -> torch.Tensor:
    """Entries of each weight, evenly spaced, in fp32: (weights, entries)."""
    return torch.stack([w.flatten()[:: w.numel() // entries][:entries].float() for w in weights])
