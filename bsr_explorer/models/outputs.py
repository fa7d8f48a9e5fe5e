"""What a model returns, and the labels that this is held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bsr_explorer.errors import UserError

LABELS = ("images", "pixels")
"""What has a label: a model says so by an attribute ``labels``; without it, images have."""


def labels_shape(model: nn.Module, batch_size: int, image_size: int) -> tuple[int, ...]:
    """The shape of a batch's labels, class indices: (B,), or (B, S, S) where each pixel has one.

    Raises:
        UserError: the model says something else.
    """
    of = getattr(model, "labels", LABELS[0])
    if of not in LABELS:
        raise UserError(f"--model: labels: {of!r} have none; choose {' or '.join(LABELS)}")
    return (batch_size,) if of == "images" else (batch_size, image_size, image_size)


def logits_of(found: Any) -> Tensor:
    """The logits (B, classes), or (B, classes, S, S), of what a model returns: a tensor, something that has one as
    ``logits`` or ``out`` (as models of transformers and torchvision do), or several of which it is the first.

    Raises:
        UserError: it returns something else.
    """
    if isinstance(found, Tensor):
        return found
    for wanted in ("logits", "out"):
        value = found.get(wanted) if isinstance(found, Mapping) else getattr(found, wanted, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(found, (tuple, list)) and found and isinstance(found[0], Tensor):
        return found[0]
    raise UserError(
        f"--model: it returns a {type(found).__name__}; a tensor of logits is needed, or something that has one as "
        ".logits"
    )
