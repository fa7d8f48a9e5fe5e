"""A storage in a narrower number format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bsr_explorer.devices import Device
from bsr_explorer.storages.base import Packing
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import WIDTH

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed


@dataclass(frozen=True)
class Narrow(Packing):
    """Every element, in 16 bits (``fp16``, ``bf16``) or as wide as it was (``fp32``).

    What fp16 cannot hold becomes the largest number that it can, and not infinity.
    """

    dtype: str = "fp16"

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``."""
        return math.prod(shape) * WIDTH[self.dtype]

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """None."""
        return 0

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """None."""
        return 0

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``."""
        from bsr_explorer.storages import packing

        (narrow,) = self.form(x)
        packing.copy_in_range(x, narrow)
        return (narrow,)

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``."""
        return packed[0].to(dtype, copy=True).view(shape)

    def form(self, x: torch.Tensor) -> Packed:
        """See ``Packing``."""
        import torch

        from bsr_explorer.storages.packing import DTYPES

        return (torch.empty(x.shape, dtype=DTYPES[self.dtype], device=x.device),)
