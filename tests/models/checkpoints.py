"""timm's own toy, and checkpoints of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from bsr_explorer.errors import UserError
from bsr_explorer.models.loading import WeightsUsed
from bsr_explorer.models.weights import create_model

TINY = "test_vit"  # timm's own toy: width 64, 6 blocks, patch 16


def _make(
    name: str = TINY, image_size: int = 32, num_classes: int = 3, **options: Any
) -> tuple[Any, WeightsUsed]:
    return create_model(name, image_size=image_size, num_classes=num_classes, **options)


def _checkpoint(num_classes: int = 7, image_size: int = 48) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(123)
        state: dict[str, Tensor] = timm.create_model(
            TINY, img_size=image_size, num_classes=num_classes
        ).state_dict()
    return state


def _same(left: Mapping[str, Tensor], right: Mapping[str, Tensor], names: set[str] | None = None) -> bool:
    return all(torch.equal(left[name], right[name]) for name in (names or set(left)))


def _one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("--weights")
    return text
