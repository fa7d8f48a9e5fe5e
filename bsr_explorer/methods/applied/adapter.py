"""Bottlenecks within the blocks of a model."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from bsr_explorer.methods.adapter import ADAPTER
from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.naming import blocks_of


class Bottleneck(nn.Module):
    """x (…, width) → ``scale``·up(GELU(down(x))), which begins at zero.

    Args:
        like: a tensor of the device and number format that its parameters have.
    """

    def __init__(self, width: int, inner: int, out: int, scale: float, like: torch.Tensor) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.down, self.act = nn.Linear(width, inner, **how), nn.GELU()
        self.up, self.scale = nn.Linear(inner, out, **how), scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self._seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, width) → (…, out)."""
        # Where the factor is 1 there is no product, as on the tape; and no name holds what lies between.
        made = (
            self.up(self.act(self.down(x)))
            if self.scale == 1
            else self.up(self.act(self.down(x))) * self.scale
        )
        return cast(torch.Tensor, made)

    def see(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Pre-hook of the module whose input it reads, where that is not what stands before it."""
        self._seen.append(inputs[0])

    def beside(self, layer: nn.Module, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        """Hook of a layer: what this makes of what it has seen is added to what the layer makes."""
        return cast(torch.Tensor, out + self(self._seen.pop()))

    def behind(self, layer: nn.Module, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        """Hook of a layer: what this makes of what the layer makes is added to it."""
        return cast(torch.Tensor, out + self(out))


def add_adapters(model: nn.Module, inner: int, parallel: bool, scale: float) -> None:
    """Add adapters to all blocks, in place.

    Args:
        inner: width of the bottlenecks.
        parallel: whether they stand beside each MLP, or behind the attention and behind the MLP.
    """
    for block in blocks_of(model):
        for name in ("fc2",) if parallel else ("proj", "fc2"):
            layer: Any = block.get_submodule(LAYERS[name])
            out = layer.out_features
            width = block.get_submodule(LAYERS["fc1"]).get_parameter("weight").shape[1] if parallel else out
            adapter = Bottleneck(width, inner, out, scale, layer.weight)
            layer.add_module(ADAPTER, adapter)
            if parallel:
                block.get_submodule("mlp").register_forward_pre_hook(adapter.see)
            layer.register_forward_hook(adapter.beside if parallel else adapter.behind)
