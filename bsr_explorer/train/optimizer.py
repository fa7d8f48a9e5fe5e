"""A recipe's optimiser: its groups of parameters and the rate at each step."""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.naming import blocks_of, naming_of
from bsr_explorer.train.recipes import Recipe, check_optimizer


@runtime_checkable
class StepsItself(Protocol):
    """A layer that takes a step of plain SGD by itself, in the backward pass, with parameters that do not train.

    Attributes:
        group: of the optimiser, without parameters, whose learning rate and weight decay it goes by.
    """

    group: dict[str, Any]


def rate_factor(step: int, total: int, recipe: Recipe) -> float:
    """Learning rate over its peak at a 0-based step: linear warm-up from zero, then a cosine down to the least rate.

    What a step counts as in that, the recipe says. In ours neither the first nor the last has a rate of zero.
    """
    warmup = recipe.warmup_steps
    if warmup is None:
        warmup = round(recipe.warmup_fraction * total)
    warmup = min(warmup, total - 1)
    if recipe.counted_from is None:
        step, warmup, total = step + 1, warmup + 1, total + 1
    else:
        step += recipe.counted_from
    if step < warmup:
        return step / warmup
    falling = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return recipe.least_rate + (1 - recipe.least_rate) * falling


def make_optimizer(
    model: nn.Module,
    recipe: Recipe,
    batch_size: int,
    optimizer: str | None = None,
    implementation: str = "auto",
) -> torch.optim.Optimizer:
    """The recipe's optimiser over the parameters that train.

    Args:
        optimizer: another of the same family, which takes the recipe's hyperparameters.
        implementation: one of ``cost.optimizers.IMPLEMENTATIONS``.

    One group a (learning rate, weight decay): layer decay lowers the rate from the head down; vectors
    (biases, norms, LayerScale) and embeddings are not decayed. A layer that steps itself has an empty group.

    Raises:
        UserError: gradients are to be clipped, and a layer steps itself before all of them are known.
    """
    base = recipe.lr_for_batch(batch_size)
    naming = naming_of(model)
    depth = len(blocks_of(model))

    def rate_of(name: str) -> float:
        rate = base * recipe.layer_decay ** (depth + 1 - naming.layer_of(name, depth))
        return rate * (recipe.head_lr_scale if naming.is_head(name) else 1.0)

    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            decay = recipe.weight_decay if p.ndim > 1 and name not in naming.embeddings else 0.0
            groups.setdefault((rate_of(name), decay), []).append(p)
    params = [{"params": ps, "lr": rate, "weight_decay": decay} for (rate, decay), ps in groups.items()]
    made = _made(params, base, recipe, optimizer or recipe.optimizer, implementation)
    for name, module in model.named_modules():
        if isinstance(module, StepsItself):
            if recipe.clip is not None:
                raise UserError(
                    f"--recipe: {recipe.name} clips gradients by the norm of all of them, and {name} takes its step "
                    "before they are all there; choose a recipe that does not clip, such as sgd"
                )
            made.add_param_group({"params": [], "lr": rate_of(name), "weight_decay": recipe.weight_decay})
            module.group = made.param_groups[-1]
    return made


def _made(
    params: list[dict[str, Any]], base: float, recipe: Recipe, name: str, implementation: str
) -> torch.optim.Optimizer:
    how: dict[str, Any] = {
        "auto": {},
        "loop": {"foreach": False},
        "foreach": {"foreach": True},
        "fused": {"fused": True},
    }[implementation]
    if name == "adamw_8bit":
        return _adamw_8bit(params, base)
    if name == "adamw":
        return torch.optim.AdamW(params, lr=base, **how)
    momentum = recipe.momentum if name == "sgd_momentum" else 0.0
    return torch.optim.SGD(params, lr=base, momentum=momentum, **how)


def _adamw_8bit(params: list[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW.

    Raises:
        UserError: it is not installed.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # reports a slower kernel
    check_optimizer("adamw_8bit")
    from bitsandbytes.optim.adamw import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(params, lr=rate)
    return made


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Learning rates over their peaks, in place. (A group's peak is what it was made with.)"""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
