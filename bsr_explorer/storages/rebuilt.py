"""Not stored, but computed again from what an operation below keeps anyway."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from bsr_explorer.storages.base import Packing
from bsr_explorer.tape import Shape
from bsr_explorer.units import WIDTH


@dataclass(frozen=True)
class Rebuilt:
    """The output of a LayerNorm or a GELU, computed again from that operation's own packed input.

    Attributes:
        source: how that input is packed.
        statistics: fp32 numbers a token that are needed too (a norm's mean and inverse deviation).
    """

    source: Packing
    statistics: int = 0

    packs: ClassVar[bool] = True

    def bytes(self, shape: Shape, dtype: str) -> int:
        """None of its own."""
        return 0

    def pack_scratch(self, shape: Shape, dtype: str) -> int:
        """None."""
        return 0

    def unpack_scratch(self, shape: Shape, dtype: str) -> int:
        """The source becomes what is rebuilt, in place."""
        return self.source.unpack_scratch(shape, dtype)

    def source_bytes(self, shape: Shape, dtype: str) -> int:
        """What it is computed from."""
        tokens = math.prod(shape[:-1])
        return self.source.bytes(shape, dtype) + self.statistics * tokens * WIDTH["fp32"]

    def passing(self, shape: Shape, dtype: str) -> int:
        """None."""
        return 0
