"""Blocks whose operations pack what they keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import nn

from bsr_explorer.storages.base import Packing
from bsr_explorer.storages.layers import store_in_block
from bsr_explorer.storages.rebuilt import Rebuilt


def store_kept(
    model: nn.Module,
    stores: Callable[[int, str, str, int, int], Packing | Rebuilt | None],
    explicit_softmax: bool,
) -> None:
    """Let the operations of all blocks pack what they keep, in place.

    Args:
        stores: see ``methods.storing.Storing.stores_at``.
        explicit_softmax: whether attention shall run with an explicit softmax.
    """
    for index, block in enumerate(cast(Any, model).blocks):
        if explicit_softmax:
            block.attn.fused_attn = False
        store_in_block(block, partial(stores, index))
