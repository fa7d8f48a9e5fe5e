"""One plain training loop. It knows parameters that train, and no method."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from bsr_explorer.errors import UserError
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step, autocast, image_dtype

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Outcome:
    """What a fine-tune came to.

    Attributes:
        accuracy: top-1 accuracies on validation, in [0, 1], the last one of the finished model.
        losses: mean training loss of each epoch.
        steps, images: what was trained.
        seconds: wall clock, evaluation included.
        step_seconds: median of one training step.
        diverged: why training was stopped, or None.
    """

    accuracy: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    diverged: str | None = None


def fit(
    step: Step,
    train: DataLoader[Batch],
    validation: DataLoader[Batch],
    recipe: Recipe,
    epochs: int,
    progress: Callable[[int, int, float], None] = lambda done, steps, loss: None,
    every_epoch: bool = False,
) -> Outcome:
    """Repeat a step over the training images.

    Args:
        step: what is repeated.
        train: batches of (images (B, 3, S, S), labels (B,)).
        recipe: schedule of the learning rate, and length.
        epochs: passes over ``train``; ``recipe.steps``, if given, ends training earlier.
        progress: called after every step with steps done, steps in all and the loss.
        every_epoch: evaluate after each epoch, and not at the end alone.
    """
    total = max(1, min(epochs * len(train), recipe.steps or epochs * len(train)))
    peak_rates = [group["lr"] for group in step.optimizer.param_groups]
    outcome, durations, started = Outcome(), [], time.perf_counter()
    while outcome.steps < total and outcome.diverged is None:
        step.model.train()
        losses = []
        for images, labels in _on(step.device, train, image_dtype(step.precision)):
            began = time.perf_counter()
            _set_rates(step.optimizer, peak_rates, rate_factor(outcome.steps, total, recipe))
            value = step(images, labels)
            if not math.isfinite(value):
                outcome.diverged = f"the loss was {value} at step {outcome.steps + 1} of {total}"
                break
            durations.append(time.perf_counter() - began)
            losses.append(value)
            outcome.steps += 1
            outcome.images += len(labels)
            progress(outcome.steps, total, value)
            if outcome.steps == total:
                break
        if losses:
            outcome.losses.append(sum(losses) / len(losses))
        if outcome.diverged is None and (every_epoch or outcome.steps == total):
            accuracy = evaluate(step.model, validation, step.precision)
            if math.isnan(accuracy):
                outcome.diverged = f"the outputs were not finite after step {outcome.steps} of {total}"
            else:
                outcome.accuracy.append(accuracy)
    outcome.seconds = time.perf_counter() - started
    outcome.step_seconds = median(durations) if durations else 0.0
    return outcome


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[Batch], precision: str = "fp32") -> float:
    """Top-1 accuracy in [0, 1]; not a number if an output is not finite."""
    model.eval()
    device = next(model.parameters()).device
    right = total = 0
    for images, labels in _on(device, loader, image_dtype(precision)):
        with autocast(precision, device):
            logits = model(images)
        if not bool(logits.isfinite().all()):
            return math.nan
        right += int((logits.argmax(dim=1) == labels).sum())
        total += len(labels)
    return right / total


def rate_factor(step: int, total: int, recipe: Recipe) -> float:
    """Learning rate over its peak at a 0-based step: linear warm-up, then a cosine to zero."""
    warmup = recipe.warmup_steps
    if warmup is None:
        warmup = round(recipe.warmup_fraction * total)
    warmup = min(warmup, total - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


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
    (biases, norms, LayerScale) and embeddings are not decayed.
    """
    base = recipe.lr_for_batch(batch_size)
    depth = len(model.blocks)  # type: ignore[arg-type]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            rate = base * recipe.layer_decay ** (depth + 1 - _layer(name, depth))
            rate *= recipe.head_lr_scale if name.startswith("head.") else 1.0
            decay = recipe.weight_decay if p.ndim > 1 and name not in _EMBEDDINGS else 0.0
            groups.setdefault((rate, decay), []).append(p)
    params = [{"params": ps, "lr": rate, "weight_decay": decay} for (rate, decay), ps in groups.items()]
    name = optimizer or recipe.optimizer
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
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError:
        raise UserError(
            '--optimizer: adamw_8bit needs bitsandbytes; install it with pip install "bsr-explorer[8bit]", or '
            "choose adamw"
        ) from None
    made: torch.optim.Optimizer = AdamW8bit(params, lr=rate)
    return made


_EMBEDDINGS = frozenset({"pos_embed", "cls_token", "reg_token"})


def _layer(name: str, depth: int) -> int:
    """0 for what stands below the blocks, 1 to depth for them, depth + 1 above."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    below = name.startswith(("patch_embed", "norm_pre")) or name in _EMBEDDINGS
    return 0 if below else depth + 1


def _set_rates(optimizer: torch.optim.Optimizer, peaks: list[float], factor: float) -> None:
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * factor


def _on(device: torch.device, loader: DataLoader[Batch], dtype: torch.dtype) -> Iterator[Batch]:
    for images, labels in loader:
        yield images.to(device, dtype, non_blocking=True), labels.to(device, non_blocking=True)
