"""Blocks whose operations pack what they keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from torch import nn

from bsr_explorer.naming import blocks_of
from bsr_explorer.storages.base import Packing
from bsr_explorer.storages.layers import store_in_block, store_in_linear
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


def store_read(
    model: nn.Module,
    places: Mapping[str, str],
    stores: Callable[[int, str, str, int, int], Packing | Rebuilt | None],
) -> None:
    """Let linear layers of all blocks pack what they read, in place; nothing else of a block is touched.

    Args:
        places: by the path of a layer in its block, what it reads (``methods.storing.PLACES``); of the last layer of a
            gated MLP, ``gated`` in its place.
        stores: see ``methods.storing.Storing.stores_at``; heads are not asked for, and are 0.
    """
    for index, block in enumerate(blocks_of(model)):
        for path, place in places.items():
            layer = block.get_submodule(path)
            if isinstance(layer, nn.Linear):  # one of another kind keeps what it keeps
                if path == "mlp.fc2" and hasattr(block.get_submodule("mlp"), "gate_last"):
                    place = "gated"
                if (packing := stores(index, path, place, 0, layer.in_features)) is not None:
                    store_in_linear(layer, place, packing)
