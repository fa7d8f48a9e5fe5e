"""A storage of one number for each part of a token: its projection on one direction (VeLoRA's)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bsr_explorer.devices import Device
from bsr_explorer.storages.base import Factored
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed


@dataclass(frozen=True)
class Projected(Factored):
    """Every token (in channels) is cut into parts of ``width`` channels, and each becomes its product with one
    direction v of length 1. v is the normalised mean of the parts of the first batch, and stays what it is.

    What it stands for is x̂ = (x·v) ⊗ v. A linear layer's weight gradient gᵀ·x̂ is made without it, as
    (gᵀ·(x·v)) ⊗ v, which costs a ``width``-th of the product with x.

    Attributes:
        width: channels of a part, which divide those of the tensor.
        scale: a factor of the weight's gradient.
    """

    width: int
    scale: float = 1.0

    @property
    def remembers(self) -> Shape:
        """v."""
        return (self.width,)

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``: a number a part, and v in fp32."""
        return math.prod(shape) // self.width * WIDTH[dtype] + self.width * WIDTH["fp32"]

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``: v in the tensor's number format."""
        return self._narrow(dtype)

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``."""
        return self._narrow(dtype)

    def _narrow(self, dtype: str) -> int:
        return 0 if dtype == "fp32" else self.width * WIDTH[dtype]

    def pack_flops(self, shape: Shape) -> int:
        """See ``Storage``."""
        return FLOPS_PER_MAC * math.prod(shape)

    def gradient_flops(self, shape: Shape, out: int) -> int:
        """See ``Factors``."""
        return FLOPS_PER_MAC * math.prod(shape) // self.width * out

    def gradient_scratch(self, shape: Shape, out: int, dtype: str) -> int:
        """See ``Factors``: gᵀ·(x·v), and v in its number format."""
        return out * (shape[-1] // self.width) * WIDTH[dtype] + self._narrow(dtype)

    def form(self, x: torch.Tensor) -> Packed:
        """See ``Packing``: projections, a row an image; v."""
        import torch

        parts = math.prod(x.shape[1:]) // self.width
        return x.new_empty(len(x), parts), torch.empty(self.width, dtype=torch.float32, device=x.device)

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``. The direction is kept beside, so that what is packed stands for itself."""
        import torch
        import torch.nn.functional as F

        from bsr_explorer.storages import packing

        parts = x.view(-1, self.width)
        if running is None or not packing.has_seen(running):
            direction = F.normalize(parts.mean(0, dtype=torch.float32), dim=0)
            if running is not None:
                running.copy_(direction)
        else:
            direction = running.clone()
        return parts.mm(direction.to(x.dtype).unsqueeze(1)).view(len(x), -1), direction

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``: x̂."""
        projections, direction = packed
        return (projections.unsqueeze(-1) * direction.to(dtype)).view(shape)

    def weight_gradient(self, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        """See ``Factored``."""
        projections, direction = packed
        product = rows.t().mm(projections.view(len(rows), -1))  # (out, parts of a token)
        if self.scale != 1:
            product.mul_(self.scale)
        return (product.unsqueeze(-1) * direction.to(rows.dtype)).view(len(product), -1)
