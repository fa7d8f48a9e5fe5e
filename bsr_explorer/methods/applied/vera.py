"""Updates of shared random matrices beside linear layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import linear

from bsr_explorer.methods.applied.ia3 import ChannelScale
from bsr_explorer.methods.vera import DOWN, INNER, OUTER, UP, key_of

_START = 0.1
"""Of d, the authors' and PEFT's."""


class Product(nn.Module):
    """x (…, in) → x·Mᵀ, of a frozen matrix M (out, in) that stands elsewhere in the model.

    Args:
        matrices: where it stands; no module of this one, so that the model has it once.
        key: its name there.
    """

    def __init__(self, matrices: nn.ParameterDict, key: str) -> None:
        super().__init__()
        self._matrices, self._key = (matrices,), key

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        return linear(x, self._matrices[0][self._key])


def add_updates(model: nn.Module, layers: Iterable[nn.Linear], r: int) -> None:
    """Add b ⊙ B·(d ⊙ A·x) to the outputs of linear layers of a model, in place. Layers of one shape share A and B,
    which are drawn; d is 0.1, b is zero."""
    downs, ups = nn.ParameterDict(), nn.ParameterDict()
    for layer in layers:
        (out, width), like = layer.weight.shape, layer.weight
        key = key_of((out, width))
        if key not in downs:
            downs[key], ups[key] = _drawn((r, width), like), _drawn((out, r), like)
        layer.add_module(DOWN, Product(downs, key))
        layer.add_module(INNER, _factors(r, _START, like))
        layer.add_module(UP, Product(ups, key))
        layer.add_module(OUTER, _factors(out, 0.0, like))
        layer.register_forward_hook(_add)
    model.add_module(DOWN, downs)
    model.add_module(UP, ups)


def _add(layer: Any, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
    """Hook of a layer. No name holds what lies between."""
    down, inner, up, outer = (getattr(layer, name) for name in (DOWN, INNER, UP, OUTER))
    return cast(torch.Tensor, out + outer(up(inner(down(inputs[0])))))


def _drawn(shape: tuple[int, int], like: torch.Tensor) -> nn.Parameter:
    matrix = like.new_empty(shape)
    return nn.Parameter(nn.init.kaiming_uniform_(matrix), requires_grad=False)


def _factors(count: int, value: float, like: torch.Tensor) -> ChannelScale:
    made = ChannelScale(count, like)
    nn.init.constant_(made.gamma, value)
    return made
