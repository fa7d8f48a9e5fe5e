"""Several tasks with one backbone: a head for each, side by side in one layer, and a loss that keeps them apart.

The head is one linear layer with as many rows as all tasks have classes together: that is the same as a layer for each.
A label says which task an image is of, for the classes of the first task come first, then those of the second, …. The
logits of other tasks become minus infinity before the softmax, so that an image teaches the head of its own task alone.
What that takes does not depend on which images a batch has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsr_explorer.errors import UserError
from bsr_explorer.models.inputs import IMAGES, inputs_of

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits and labels, one number."""


@runtime_checkable
class OfClasses(Protocol):
    """A loss of a model's own that adds something to that of its classes.

    Attributes:
        of_classes: the latter.
    """

    of_classes: Loss


def give_tasks(model: nn.Module, tasks: tuple[int, ...]) -> None:
    """Let the head of a model be that of several tasks, in place.

    Args:
        tasks: classes of each; nothing: the model has one task.

    Raises:
        UserError: the model's labels are of no images, or its loss is its own.
    """
    if not tasks:
        return
    own = getattr(model, "own_loss", None)
    if inputs_of(model, IMAGES) is not IMAGES:
        raise UserError(
            "--tasks: the model classifies pixels, and tasks are of images; choose a model that classifies images"
        )
    if own is not None and not isinstance(own, OfClasses):
        raise UserError(
            "--tasks: the model has a loss of its own, which knows no tasks; choose another model, or one task"
        )
    model.tasks = tasks  # type: ignore[assignment]
    if own is not None:
        own.of_classes = partial(loss_within, tasks)


def tasks_of(model: nn.Module) -> tuple[int, ...]:
    """The classes of each task of a model; nothing, if it has one task."""
    return cast("tuple[int, ...]", getattr(model, "tasks", ()))


def loss_of(model: nn.Module, label_smoothing: float = 0.0) -> Loss:
    """The loss of a model: its own (which smooths no labels), or the mean cross entropy, of several tasks within each
    image's own."""
    own = cast("Loss | None", getattr(model, "own_loss", None))
    if own is not None:
        return own
    if tasks := tasks_of(model):
        return partial(loss_within, tasks, label_smoothing=label_smoothing)
    return partial(F.cross_entropy, label_smoothing=label_smoothing) if label_smoothing else F.cross_entropy


def bounds_of(tasks: tuple[int, ...]) -> list[tuple[int, int]]:
    """The first class of each task, and that after its last."""
    ends = [0]
    for classes in tasks:
        ends.append(ends[-1] + classes)
    return list(pairwise(ends))


def other_tasks(tasks: tuple[int, ...], labels: Tensor) -> Tensor:
    """Labels (B,) → which classes are of another task, (B, classes) of bool."""
    parts = []
    for first, end in bounds_of(tasks):
        outside = (labels < first) | (labels >= end)
        parts.append(outside[:, None].expand(-1, end - first))
    return torch.cat(parts, 1)


def loss_within(
    tasks: tuple[int, ...], logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """The mean over all images of the cross entropy among the classes of each one's own task.

    Args:
        tasks: classes of each.
        logits: (B, classes of all tasks).
        labels: (B,), of which each says its task, too.
        label_smoothing: what of the label is spread evenly over the classes of its task. It keeps nothing more for
            backward.
    """
    others = other_tasks(tasks, labels)
    own = logits.masked_fill(others, -math.inf)
    if not label_smoothing:
        return F.cross_entropy(own, labels)
    # Torch would spread what is smoothed over all classes, and minus infinity is among their logarithms.
    automatic = torch.is_autocast_enabled(own.device.type)
    logarithms = F.log_softmax(own, 1, dtype=torch.float32 if automatic else None)
    finite = logarithms.masked_fill(others, 0.0)
    means = [finite[:, first:end].sum() / (end - first) for first, end in bounds_of(tasks)]
    smooth = torch.stack(means).sum() / len(labels)
    return (1 - label_smoothing) * F.nll_loss(logarithms, labels) - label_smoothing * smooth


def right_of(tasks: tuple[int, ...], logits: Tensor, labels: Tensor) -> Tensor:
    """Of each image, whether the greatest logit of its own task's is that of its label, (B,) of bool."""
    own = logits.masked_fill(other_tasks(tasks, labels), -math.inf)
    return own.argmax(dim=1) == labels
