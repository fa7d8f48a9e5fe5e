"""A storage of a tensor as it is: what an operation makes for itself and shares with the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.devices import Device
from bsr_explorer.storages.base import Packing
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import WIDTH

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed


@dataclass(frozen=True)
class Itself(Packing):
    """Neither packed nor copied; what is brought back must not be changed.

    Attributes:
        wide: the number format that it has, where what is computed again of it is cast; empty: that of what is asked
            for.
    """

    wide: str = ""

    copies: ClassVar[bool] = False
    itself: ClassVar[bool] = True

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``: every element at its width."""
        return math.prod(shape) * WIDTH[self.wide or dtype]

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """None."""
        return 0

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """What is computed again, before it is cast."""
        return self.bytes(shape, dtype) if self.wide else 0

    def cast_from(self, dtype: str) -> Itself:
        """See ``Storage``."""
        return replace(self, wide=dtype)

    def form(self, x: torch.Tensor) -> Packed:
        """See ``Packing``."""
        return (x,)

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``."""
        return (x,)

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """The tensor itself, not a new one."""
        return packed[0]
