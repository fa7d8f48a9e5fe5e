"""The largest elements of each image and, one bit an element, where they stood (Back Razor's storage)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bsr_explorer.storages.base import Packing, per_image
from bsr_explorer.tape import Shape
from bsr_explorer.units import WIDTH

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed

_RANGE = 2 * WIDTH["fp32"]
"""Bytes of the smallest value and of the range of quantised values."""

_BINS = 2**15
"""Magnitudes are counted by their upper 15 bits."""


@dataclass(frozen=True)
class Sparse(Packing):
    """Of each image, the elements of the largest magnitude.

    Of M elements, with k = int(ratio · M), those are kept that are not below the k-th smallest magnitude:
    M − k + 1 of them (all, if k is 0). Ties at the threshold are broken by position, so that the number is
    always this and a prediction can be exact.

    Attributes:
        ratio: the share that is given up, 0 to below 1.
        values: number format of the kept values, where they are not quantised.
        quantize: bits of a kept value (8 or 4), within the range of its image, rounded up or down by chance; or
            None.
        parts: into how many equal parts the channels fall, each with its own threshold (3 for queries, keys and
            values in one tensor).
    """

    ratio: float = 0.9
    values: str = "fp16"
    quantize: int | None = None
    parts: int = 1

    def kept(self, elements: int) -> int:
        """How many of an image's (or part's) elements are kept."""
        given_up = int(round(self.ratio * elements, 6))
        return elements - given_up + 1 if given_up else elements

    def _each(self, shape: Shape) -> tuple[int, int]:
        """(how many pieces have a threshold of their own, elements of each)."""
        return shape[0] * self.parts, per_image(shape) // self.parts

    def _piece_bytes(self, elements: int) -> tuple[int, int]:
        """Bytes of the values and of the bitmap of one piece."""
        kept = self.kept(elements)
        values = kept * WIDTH[self.values] if self.quantize is None else -(-kept * self.quantize // 8) + _RANGE
        return values, -(-elements // 8)

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``."""
        pieces, elements = self._each(shape)
        return pieces * sum(self._piece_bytes(elements))

    def pack_scratch(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``."""
        _, elements = self._each(shape)
        copy = elements * WIDTH[dtype] if self.parts > 1 else 0
        counting = 2 * elements + _BINS * (WIDTH["int64"] + 1)
        comparing = (WIDTH[dtype] + 1) * elements
        return copy + max(counting, comparing)

    def unpack_scratch(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``."""
        _, elements = self._each(shape)
        bitmap = -(-elements // 8)
        kept = self.kept(elements) * WIDTH[dtype]
        copy = elements * WIDTH[dtype] if self.parts > 1 else 0
        return copy + 8 * bitmap + max(4 * bitmap, kept)

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``."""
        from bsr_explorer.storages import packing

        stored = self.form(x)
        for piece, (values, *rest, bitmap) in zip(
            self._pieces(x), zip(*(part.unbind() for part in stored), strict=True), strict=True
        ):
            flat = piece.reshape(-1)
            mask = packing.largest(flat, self.kept(flat.numel()))
            packing.pack_mask(mask, bitmap)
            if self.quantize is None:
                packing.copy_in_range(flat[mask], values)
            else:
                packing.quantize_alone(flat[mask], self.quantize, values, rest[0])
        return stored

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``."""
        import torch

        from bsr_explorer.storages import packing

        x = torch.zeros(shape, dtype=dtype, device=packed[0].device)
        for piece, (values, *rest, bitmap) in zip(
            self._pieces(x), zip(*(part.unbind() for part in packed), strict=True), strict=True
        ):
            mask = packing.unpack_mask(bitmap, piece.numel())
            if self.quantize is None:
                wide = values.to(dtype)
            else:
                wide = packing.dequantize_alone(values, self.quantize, rest[0], self.kept(piece.numel())).to(dtype)
            if self.parts == 1:
                piece.view(-1).masked_scatter_(mask, wide)
            else:
                piece.copy_(torch.zeros(piece.numel(), dtype=dtype).masked_scatter_(mask, wide).view(piece.shape))
        return x

    def _pieces(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Views with a threshold each."""
        return [part for image in x.unbind() for part in image.chunk(self.parts, dim=-1)]

    def form(self, x: torch.Tensor) -> Packed:
        """See ``Packing``: values, their range if they are quantised, bitmap; a row a piece."""
        import torch

        from bsr_explorer.storages.packing import DTYPES

        pieces, elements = self._each(tuple(x.shape))
        kept, bitmap = self.kept(elements), self._piece_bytes(elements)[1]

        def empty(columns: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(pieces, columns, dtype=dtype, device=x.device)

        bits = empty(bitmap, torch.uint8)
        if self.quantize is None:
            return empty(kept, DTYPES[self.values]), bits
        return empty(-(-kept * self.quantize // 8), torch.uint8), empty(2, torch.float32), bits
