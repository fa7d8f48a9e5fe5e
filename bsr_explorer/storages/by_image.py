"""A packing of what is not one row an image: windows, or heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bsr_explorer.devices import Device
from bsr_explorer.storages.base import Packing
from bsr_explorer.storages.storage import Course, Shape

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed


@dataclass(frozen=True)
class ByImage(Packing):
    """Packed as if all windows (or heads) of an image, (B·windows, N, …), were one: (B, windows·N, …).

    Attributes:
        how: which packs images one by one.
        images: B.
    """

    how: Packing
    images: int

    def _shape(self, shape: Shape) -> Shape:
        each = shape[0] // self.images
        return (self.images, each * shape[1], *shape[2:])

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``."""
        return self.how.bytes(self._shape(shape), dtype)

    def pieces(self, shape: Shape, dtype: str) -> tuple[int, ...]:
        """See ``Packing``."""
        return self.how.pieces(self._shape(shape), dtype)

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``."""
        return self.how.pack_scratch(self._shape(shape), dtype, device)

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``."""
        return self.how.unpack_scratch(self._shape(shape), dtype, device)

    def pack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """See ``Packing``."""
        return self.how.pack_course(self._shape(shape), dtype, device)

    def unpack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """See ``Packing``."""
        return self.how.unpack_course(self._shape(shape), dtype, device)

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``."""
        return self.how.pack(x.view(self._shape(tuple(x.shape))), running)

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``."""
        return self.how.unpack(packed, self._shape(shape), dtype).view(shape)

    def form(self, x: torch.Tensor) -> Packed:
        """See ``Packing``."""
        return self.how.form(x.view(self._shape(tuple(x.shape))))


def by_image(how: Packing, shape: Shape, images: int) -> Packing:
    """A packing of a tensor of which each image has several rows; itself, where it has one, or it does not matter."""
    several = shape[0] > images and shape[0] % images == 0 and len(shape) > 1
    return ByImage(how, images) if several and how.one_by_one else how
