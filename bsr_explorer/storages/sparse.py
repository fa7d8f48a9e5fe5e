"""A storage of the largest elements of each image, with a bit mask of their positions (Back Razor's)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.devices import Device, device_or_cpu
from bsr_explorer.storages.base import Packing, images_at_once, in_parts, per_image
from bsr_explorer.storages.storage import Course, Shape, there_and_back
from bsr_explorer.storages.tiles import SEED, Groups, sparse_scratch
from bsr_explorer.units import WIDTH

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed

_RANGE = 2 * WIDTH["fp32"]
"""Bytes of the smallest value and of the range of quantised values."""


@dataclass(frozen=True)
class Sparse(Packing):
    """Of each image, the elements of the largest magnitude.

    Of M elements, with k = int(ratio · M) in floating point, those are kept that are not below the k-th smallest
    magnitude: M − k + 1 of them (all, if k is 0). Ties at the threshold are broken by position, so that the number is
    always this and a prediction can be exact.

    Attributes:
        ratio: the share that is given up, 0 to below 1.
        values: number format of the kept values, where they are not quantised.
        quantize: bits of a kept value (8 or 4), within the range of its image, with stochastic rounding; or
            None.
        parts: into how many equal parts the channels fall, each with its own threshold (3 for queries, keys and
            values in one tensor).
    """

    ratio: float = 0.9
    values: str = "fp16"
    quantize: int | None = None
    parts: int = 1

    one_by_one: ClassVar[bool] = True

    def fitting(self, shape: Shape) -> Sparse:
        """See ``Storage``: parts are those of channels."""
        return self if shape[-1] % self.parts == 0 else replace(self, parts=1)

    def kept(self, elements: int) -> int:
        """How many of an image's (or part's) elements are kept."""
        given_up = int(self.ratio * elements)  # cut off, as the authors do
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

    def pieces(self, shape: Shape, dtype: str) -> tuple[int, ...]:
        """See ``Packing``."""
        pieces, elements = self._each(shape)
        values, bitmap = self._piece_bytes(elements)
        if self.quantize is None:
            return pieces * bitmap, pieces * values
        return pieces * bitmap, pieces * (values - _RANGE), pieces * _RANGE

    def fuses(self, device: Device) -> bool:
        """See ``Packing``."""
        return device.packs_fused

    def _fused_courses(self, shape: Shape, dtype: str) -> tuple[Course, Course]:
        """What kernels take that pack and unpack: thresholds and counts; and if values are quantised, these in the
        tensor's own format, and what that takes."""
        pieces, elements = self._each(shape)
        search = there_and_back(sparse_scratch(pieces, elements) * WIDTH["int32"])
        if self.quantize is None:
            return search, ()
        values, groups = pieces * self.kept(elements) * WIDTH[dtype], Groups(1, pieces, self.kept(elements))
        few = there_and_back(groups.scratch * WIDTH["int32"], SEED)
        return (values, *search, *few, -values), there_and_back(values)

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``: magnitudes and their mask; then the positions' bytes; then the values. (Positions are
        NumPy's, unless all are kept.)"""
        if self.fuses(device):
            return max(accumulate(self._fused_courses(shape, dtype)[0]))
        _, elements = self._each(shape)
        kept, width = self.kept(elements), WIDTH[dtype]
        if device.packs_rows:  # magnitudes, two masks, and the ties counted from the end
            return images_at_once(shape, device) * per_image(shape) * (self._copied(width) + width + 11)
        positions = WIDTH["int64"] * elements if kept == elements else 0
        comparing = elements * (width + 1) if kept < elements else 0
        values = kept * width
        if self.quantize is not None:
            copy = 0 if dtype == "fp32" else kept * WIDTH["fp32"]
            narrow = -(-kept * self.quantize // 8) * (WIDTH["int32"] + 1) if self.quantize < 8 else 0
            values += copy + kept * WIDTH["int32"] + narrow + WIDTH["fp32"]
        return elements * self._copied(width) + max(
            comparing, positions + max(8 * (-(-elements // 8)), values)
        )

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``: the mask, and then the values."""
        if self.fuses(device):
            return max(accumulate(self._fused_courses(shape, dtype)[1]), default=0)
        _, elements = self._each(shape)
        if device.packs_rows:  # the mask, made of whole numbers, and the values
            some = images_at_once(shape, device) * self.parts
            wide = some * self.kept(elements) * WIDTH[dtype]
            return some * elements * (2 + self._copied(WIDTH[dtype])) + wide
        bitmap, kept, width = -(-elements // 8), self.kept(elements), WIDTH[dtype]
        values = kept * width
        if self.quantize is not None:
            values = kept * (WIDTH["fp32"] + (0 if dtype == "fp32" else width))
            piece = -(-kept * self.quantize // 8) if self.quantize < 8 else 0
            values = max(values, kept * WIDTH["fp32"] + piece)
        elif self.values == dtype:
            values = 0
        return elements * self._copied(width) + 8 * bitmap + max(4 * bitmap, values)

    def pack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """See ``Packing``; where rows are packed many at once: magnitudes; for each of their bits, a comparison and its
        count in 64 bits; masks, ties counted from the end; positions of the kept values, and these."""
        if self.fuses(device):
            return self._fused_courses(shape, dtype)[0]
        if not device.packs_rows or self.quantize is not None:
            return super().pack_course(shape, dtype, device)
        width, course = WIDTH[dtype], list[int]()
        for images in in_parts(shape[0], images_at_once(shape, device)):
            rows, n = images * self.parts, images * per_image(shape)
            kept = rows * self.kept(n // rows)
            copied = n * self._copied(width)
            course += [copied] if copied else []
            course += [n * width, *there_and_back(n, 8 * n) * (8 * width - 1), n, n, *there_and_back(8 * n)]
            course += [n, 4 * n, *there_and_back(4 * n), -n, 4 * n, -4 * n, *there_and_back(n, n)]
            course += [-n * width, -n, -4 * n]
            course += [16 * kept, width * kept, -16 * kept, -width * kept, *there_and_back(n), -n]
            course += [-copied] if copied else []
        return tuple(course)

    def unpack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """See ``Packing``; where rows are unpacked many at once: the bitmap in 32 bits, the mask, the values, and a
        running count of the mask in 64 bits."""
        if self.fuses(device) or not device.packs_rows or self.quantize is not None:
            return super().unpack_course(shape, dtype, device)
        width, course = WIDTH[dtype], list[int]()
        for images in in_parts(shape[0], images_at_once(shape, device)):
            rows, n = images * self.parts, images * per_image(shape)
            bitmap = rows * -(-(n // rows) // 8)
            values = rows * self.kept(n // rows) * width if self.values != dtype else 0
            flat = n * self._copied(width)
            course += [flat] if flat else []
            mask = n if n // rows % 8 else 0  # without the bits that fill up the last byte
            course += [4 * bitmap, 8 * bitmap, -4 * bitmap, *there_and_back(values, 8 * n, mask), -8 * bitmap]
            course += [*there_and_back(flat), -flat] if flat else []
        return tuple(course)

    def _copied(self, width: int) -> int:
        """Bytes an element of a piece that is laid side by side, if it is not so already."""
        return width if self.parts > 1 else 0

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``."""
        return self.pack_fused(x) if self.runs_fused(x.device) else self.pack_plainly(x)

    def pack_fused(self, x: torch.Tensor) -> Packed:
        """By kernels of our own."""
        from bsr_explorer.storages import fused

        packed = self.form(x)
        fused.pack_largest(x, packed, self)
        return packed

    def pack_plainly(self, x: torch.Tensor) -> Packed:
        """By torch's operations: one piece after another, each as fast as NumPy can, or many at once, as the device
        says."""
        stored, device = self.form(x), device_or_cpu(x.device.type)
        if device.packs_rows:
            some = images_at_once(tuple(x.shape), device)
            split = (part.split(some * self.parts) for part in stored)
            for images, *rows in zip(x.split(some), *split, strict=True):
                self._pack_rows(self._rows(images), *rows)
            return stored
        for piece, *rows in zip(self._pieces(x), *stored, strict=True):
            self._pack_piece(piece.reshape(-1), *rows)
        return stored

    def _pack_piece(self, x: torch.Tensor, values: torch.Tensor, *rest: torch.Tensor) -> None:
        """A flat piece, into its row of each stored tensor."""
        from bsr_explorer.storages import packing

        chosen = packing.largest(x, self.kept(x.numel()))
        packing.pack_positions(chosen, rest[-1])
        self._pack_values(x.index_select(0, chosen).view(1, -1), values.view(1, -1), rest[0].view(1, -1))

    def _pack_rows(self, x: torch.Tensor, values: torch.Tensor, *rest: torch.Tensor) -> None:
        """Pieces, a row each, into as many rows of each stored tensor."""
        import torch.nn.functional as F

        from bsr_explorer.storages import packing

        count = self.kept(x.shape[1])
        chosen = packing.largest_of_rows(x, count)
        self._pack_values(x[chosen].view(-1, count), values, rest[0])
        packing.pack_masks(F.pad(chosen, (0, -x.shape[1] % 8)), rest[-1])

    def _pack_values(self, x: torch.Tensor, values: torch.Tensor, ranges: torch.Tensor) -> None:
        """Kept values, (pieces, kept), into their rows; and their ranges, if they are quantised."""
        from bsr_explorer.storages import packing

        if self.quantize is None:
            packing.copy_in_range(x, values)
        else:
            packing.quantize_rows(x, self.quantize, values, ranges)

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``."""
        fused = self.runs_fused(packed[0].device)
        return (self.unpack_fused if fused else self.unpack_plainly)(packed, shape, dtype)

    def unpack_fused(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """By kernels of our own."""
        from bsr_explorer.storages import fused

        return fused.unpack_largest(packed, self, shape, dtype)

    def unpack_plainly(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """By torch's operations."""
        import torch

        x = torch.zeros(shape, dtype=dtype, device=packed[0].device)
        device = device_or_cpu(x.device.type)
        some = images_at_once(shape, device) if device.packs_rows else 1
        parts = self.parts if device.packs_rows else 1  # or the parts, too, one after another
        images = list(x.split(some)) if device.packs_rows else self._pieces(x)
        for piece, *rows in zip(images, *(part.split(some * parts) for part in packed), strict=True):
            if self.parts == 1:
                self._unpack_rows(piece.view(len(rows[0]), -1), *rows)
                continue
            flat = x.new_zeros(len(rows[0]), self._each(shape)[1])
            self._unpack_rows(flat, *rows)
            self._lay(piece, flat)
            del flat
        return x

    def _lay(self, x: torch.Tensor, rows: torch.Tensor) -> None:
        """Rows of pieces into one piece, or into images of several parts."""
        if len(rows) == 1:
            x.copy_(rows.view(x.shape))
            return
        parts = rows.view(len(x), self.parts, *x.shape[1:-1], -1)
        x.copy_(parts.movedim(1, -2).reshape(x.shape))

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """Images as rows of pieces."""
        rows: torch.Tensor = x.unflatten(-1, (self.parts, -1)).movedim(-2, 1).reshape(len(x) * self.parts, -1)
        return rows

    def _unpack_rows(self, x: torch.Tensor, values: torch.Tensor, *rest: torch.Tensor) -> None:
        """Rows of each stored tensor, into rows of zeros."""
        from bsr_explorer.storages import packing

        mask = packing.unpack_mask(rest[-1], x.shape[1])
        if self.quantize is not None:
            values = packing.dequantize_rows(values, self.quantize, rest[0], self.kept(x.shape[1]))
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
