"""A tensor that is not stored, but computed again from what an operation below keeps anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bsr_explorer.devices import Device
from bsr_explorer.storages.base import Packing
from bsr_explorer.storages.storage import AtOnce, Course, Shape


@dataclass(frozen=True)
class Rebuilt(AtOnce):
    """The output of a LayerNorm or a GELU, computed again from that operation's own packed input.

    Attributes:
        source: how that input is packed (a norm's, as it is normalised).
    """

    source: Packing

    packs: ClassVar[bool] = True
    again: ClassVar[bool] = True

    def fitting(self, shape: Shape) -> Rebuilt:
        """It always does."""
        return self

    def bytes(self, shape: Shape, dtype: str) -> int:
        """None of its own."""
        return 0

    def cast_from(self, dtype: str) -> Rebuilt:
        """Of the source, it is what is cast."""
        return Rebuilt(self.source.cast_from(dtype))

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """The source becomes what is rebuilt, in place."""
        return self.source.unpack_scratch(shape, dtype, device)

    def unpack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """That of the source."""
        return self.source.unpack_course(shape, dtype, device)
