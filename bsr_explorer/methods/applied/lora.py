"""A low-rank update beside a linear layer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from bsr_explorer.methods.lora import DOWN, UP


def add_update(layer: nn.Linear, r: int, scale: float) -> None:
    """Add ``scale``·B·A·x to the output of a linear layer, in place; A (r, in) is drawn, B (out, r) is zero."""
    like: dict[str, Any] = {"bias": False, "device": layer.weight.device, "dtype": layer.weight.dtype}
    layer.add_module(DOWN, nn.Linear(layer.in_features, r, **like))
    layer.add_module(UP, nn.Linear(r, layer.out_features, **like))
    nn.init.zeros_(cast(nn.Linear, layer.get_submodule(UP)).weight)

    def hook(layer: Any, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        down, up = getattr(layer, DOWN), getattr(layer, UP)
        # No name holds what lies between; and where the factor is 1, there is no product, as on the tape.
        update = up(down(inputs[0])) if scale == 1 else up(down(inputs[0]) * scale)
        return cast(torch.Tensor, out + update)

    layer.register_forward_hook(hook)
