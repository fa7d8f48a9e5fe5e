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
        values = (
            kept * WIDTH[self.values] if self.quantize is None else -(-kept * self.quantize // 8) + _RANGE
        )
        return values, -(-elements // 8)

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``."""
        pieces, elements = self._each(shape)
        return pieces * sum(self._piece_bytes(elements))

    def pack_scratch(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``: magnitudes and their mask; then the positions' bytes; then the values. (Positions are
        NumPy's, unless all are kept.)"""
        _, elements = self._each(shape)
        kept, width = self.kept(elements), WIDTH[dtype]
        positions = WIDTH["int64"] * elements if kept == elements else 0
        comparing = elements * (width + 1) if kept < elements else 0
        values = kept * width
        if self.quantize is not None:
            copy = 0 if dtype == "fp32" else kept * WIDTH["fp32"]
            narrow = -(-kept * self.quantize // 8) * (WIDTH["int32"] + 1) if self.quantize < 8 else 0
            values += copy + kept * WIDTH["int32"] + narrow + WIDTH["fp32"]
        return self._copy(elements, width) + max(comparing, positions + max(8 * (-(-elements // 8)), values))

    def unpack_scratch(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``: the mask, and then the values."""
        _, elements = self._each(shape)
        bitmap, kept, width = -(-elements // 8), self.kept(elements), WIDTH[dtype]
        values = kept * width
        if self.quantize is not None:
            values = kept * (WIDTH["fp32"] + (0 if dtype == "fp32" else width))
            piece = -(-kept * self.quantize // 8) if self.quantize < 8 else 0
            values = max(values, kept * WIDTH["fp32"] + piece)
        elif self.values == dtype:
            values = 0
        return self._copy(elements, width) + 8 * bitmap + max(4 * bitmap, values)

    def _copy(self, elements: int, width: int) -> int:
        """Bytes of a piece laid side by side, if it is not so already."""
        return elements * width if self.parts > 1 else 0

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``."""
        stored = self.form(x)
        for piece, packed in zip(self._pieces(x), zip(*stored, strict=True), strict=True):
            self._pack_piece(piece.reshape(-1), *packed)
        return stored

    def _pack_piece(self, x: torch.Tensor, values: torch.Tensor, *rest: torch.Tensor) -> None:
        """A flat piece, into its row of each stored tensor."""
        from bsr_explorer.storages import packing

        chosen = packing.largest(x, self.kept(x.numel()))
        packing.pack_positions(chosen, x.numel(), rest[-1])
        if self.quantize is None:
            packing.copy_in_range(x.index_select(0, chosen), values)
        else:
            packing.quantize_alone(x.index_select(0, chosen), self.quantize, values, rest[0])

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``."""
        import torch

        x = torch.zeros(shape, dtype=dtype, device=packed[0].device)
        for piece, rows in zip(self._pieces(x), zip(*packed, strict=True), strict=True):
            if piece.is_contiguous():
                self._unpack_piece(piece.view(-1), *rows)
            else:
                flat = x.new_zeros(piece.numel())
                self._unpack_piece(flat, *rows)
                piece.copy_(flat.view(piece.shape))
                del flat
        return x

    def _unpack_piece(self, x: torch.Tensor, values: torch.Tensor, *rest: torch.Tensor) -> None:
        """A row of each stored tensor, into a flat piece of zeros."""
        from bsr_explorer.storages import packing

        mask = packing.unpack_mask(rest[-1], x.numel())
        if self.quantize is not None:
            values = packing.dequantize_alone(values, self.quantize, rest[0], self.kept(x.numel()))
        x.masked_scatter_(mask, values.to(x.dtype))

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
