"""What a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bsr_explorer.errors import UserError


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
