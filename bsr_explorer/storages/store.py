"""Blocks whose operations pack what they keep."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from bsr_explorer.storages.layers import Stores, store_in_block


def store_kept(model: nn.Module, stores: Stores, explicit_softmax: bool) -> None:
    """Let the operations of all blocks pack what they keep, in place.

    Args:
        stores: see ``methods.storing.Storing.stores_in``.
        explicit_softmax: whether attention shall run with an explicit softmax.
    """
    for block in cast(Any, model).blocks:
        if explicit_softmax:
            block.attn.fused_attn = False
        store_in_block(block, stores)
