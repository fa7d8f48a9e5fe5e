"""A storage in few bits, between the smallest and the largest value of a group (Mesa's)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bsr_explorer.devices import Device, device_or_cpu
from bsr_explorer.storages.base import Packing, images_at_once, in_parts, per_image
from bsr_explorer.storages.storage import Course, Shape, there_and_back
from bsr_explorer.storages.tiles import SEED, groups_of
from bsr_explorer.units import WIDTH

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed


@dataclass(frozen=True)
class Quantized(Packing):
    """Whole numbers of few bits, rounded stochastically, so that their mean is right.

    Attributes:
        bits: 8, 4 or 2.
        count: groups, each with its own range.
        axis: the dimension that they divide into equal, contiguous parts: the last (−1), or that after the images (1).
        ema: how much of a group's range of earlier steps stays in the one that is used (the first step's is
            exact); 0 uses each step's own, and remembers nothing.
    """

    bits: int = 8
    count: int = 1
    axis: int = -1
    ema: float = 0.9

    def __post_init__(self) -> None:
        assert self.axis in (-1, 1), self.axis

    def fitting(self, shape: Shape) -> Quantized:
        """See ``Storage``: heads may stand in the second dimension of four; one group, where none fits."""
        if shape[self.axis] % self.count == 0:
            return self
        if len(shape) == 4 and shape[1] % self.count == 0:
            return replace(self, axis=1)
        return replace(self, count=1, axis=-1)

    @property
    def groups(self) -> int:
        """See ``Packing``."""
        return self.count if self.ema else 0

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``: the numbers of each image in whole bytes, and two fp32 a group."""
        return sum(self.pieces(shape, dtype))

    def pieces(self, shape: Shape, dtype: str) -> tuple[int, ...]:
        """See ``Packing``."""
        return shape[0] * self._row(shape), 2 * self.count * WIDTH["fp32"]

    def _row(self, shape: Shape) -> int:
        return -(-per_image(shape) * self.bits // 8)

    def fuses(self, device: Device) -> bool:
        """See ``Packing``: groups of channels, and of heads."""
        return device.packs_fused

    def _fused_scratch(self, shape: Shape) -> tuple[int, int]:
        """Bytes of what programs find of the groups' extremes, with scales; and of a seed."""
        return groups_of(shape, self.count, self.axis).scratch * WIDTH["int32"], SEED

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``: the scaled numbers, and the same as whole numbers (and a part of them, shifted)."""
        if self.fuses(device):
            return sum(self._fused_scratch(shape))
        elements = images_at_once(shape, device) * per_image(shape)
        narrow = (
            images_at_once(shape, device) * self._row(shape) * (WIDTH["int32"] + 1) if self.bits < 8 else 0
        )
        return elements * 2 * WIDTH["fp32"] + narrow + self.count * WIDTH["fp32"]

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``."""
        if self.fuses(device):
            return 0
        images = images_at_once(shape, device)
        wide = 0 if dtype == "fp32" else images * per_image(shape) * WIDTH["fp32"]
        pieces = images * self._row(shape) if self.bits < 8 else 0
        return wide + pieces + self.count * WIDTH["fp32"]

    def pack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """See ``Packing``; on a GPU also what its reductions take. (What is as small as a range is left out.)"""
        if self.fuses(device):
            return there_and_back(*self._fused_scratch(shape))
        if device.gpu is None:
            return super().pack_course(shape, dtype, device)
        course: list[int] = []
        if self.axis == -1:
            columns = shape[-1]
            scratch = device.sum_scratch(math.prod(shape) // columns, columns, WIDTH[dtype])
            for _ in ("smallest", "largest"):
                course += there_and_back(columns * WIDTH[dtype], *scratch)
        for images in in_parts(shape[0], images_at_once(shape, device)):
            numbers, row = images * per_image(shape), images * self._row(shape)
            quarter = -(-numbers // 4)
            drawn, scaled = -(-quarter // 4) * WIDTH["int64"], numbers * WIDTH["fp32"]
            course += [scaled, drawn, *there_and_back(quarter * WIDTH["fp32"]) * 4, -drawn]
            course.append(numbers * WIDTH["int32"])
            for _ in range(1, 8 // self.bits):
                course += [row * WIDTH["int32"], row, -row * WIDTH["int32"], -row]
            course += [-numbers * WIDTH["int32"], -scaled]
        return tuple(course)

    def unpack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """See ``Packing``."""
        if self.fuses(device) or device.gpu is None:
            return super().unpack_course(shape, dtype, device)
        course: list[int] = []
        for images in in_parts(shape[0], images_at_once(shape, device)):
            wide = 0 if dtype == "fp32" else images * per_image(shape) * WIDTH["fp32"]
            row = images * self._row(shape) if self.bits < 8 else 0
            pieces = there_and_back(row) * (8 // self.bits)
            course += [wide, *pieces, -wide] if wide else pieces
        return tuple(course)

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``."""
        fused = self.runs_fused(x.device)
        return self.pack_fused(x, running) if fused else self.pack_plainly(x, running)

    def pack_fused(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """By kernels of our own."""
        from bsr_explorer.storages import fused

        packed, groups = self.form(x), groups_of(tuple(x.shape), self.count, self.axis)
        fused.pack_few(x, packed, groups, self.bits, running, self.ema)
        return packed

    def pack_plainly(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """By torch's operations."""
        from bsr_explorer.storages import packing

        numbers, ranges = self.form(x)
        packing.current_ranges(self._by_group(x), self.axis == -1, ranges)
        if running is not None:
            packing.remember(running, ranges, self.ema)
        levels = 2**self.bits - 1
        scale = packing.inverse(ranges[1], levels)
        at_once = images_at_once(tuple(x.shape), device_or_cpu(x.device.type))
        for some, rows in zip(x.split(at_once), numbers.split(at_once), strict=True):
            scaled = self._by_group(some) - self._along(ranges[0], some)
            packing.round_stochastically(scaled.mul_(self._along(scale, some)), levels)
            packing.pack_numbers(scaled.view(len(some), -1), self.bits, rows)
            del scaled
        return numbers, ranges

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``."""
        fused = self.runs_fused(packed[0].device)
        return (self.unpack_fused if fused else self.unpack_plainly)(packed, shape, dtype)

    def unpack_fused(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """By a kernel of our own."""
        import torch

        from bsr_explorer.storages import fused

        x = torch.empty(shape, dtype=dtype, device=packed[0].device)
        fused.unpack_few(packed, x, groups_of(shape, self.count, self.axis), self.bits)
        return x

    def unpack_plainly(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """By torch's operations."""
        import torch

        from bsr_explorer.storages import packing

        numbers, ranges = packed
        x = torch.empty(shape, dtype=dtype, device=numbers.device)
        step = ranges[1] / (2**self.bits - 1)
        at_once = images_at_once(shape, device_or_cpu(numbers.device.type))
        for some, rows in zip(x.split(at_once), numbers.split(at_once), strict=True):
            wide = some if dtype == torch.float32 else torch.empty_like(some, dtype=torch.float32)
            packing.unpack_numbers(rows, self.bits, wide.view(len(some), -1))
            self._by_group(wide).mul_(self._along(step, wide)).add_(self._along(ranges[0], wide))
            if wide is not some:
                some.copy_(wide)
            del wide  # before the next one is made
        return x

    def _by_group(self, x: torch.Tensor) -> torch.Tensor:
        """A view in which the dimension of the groups is split in two: (group, within)."""
        grouped: torch.Tensor = x.unflatten(self.axis, (self.count, -1))
        return grouped

    def _along(self, numbers: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """One number a group, to be broadcast over ``_by_group(x)``."""
        trailing = x.dim() - 1 - self.axis % x.dim()
        return numbers.view(-1, *[1] * (trailing + 1))

    def form(self, x: torch.Tensor) -> Packed:
        """See ``Packing``: numbers, a row an image; smallest values and ranges, (2, groups)."""
        import torch

        assert math.prod(x.shape) and x.shape[self.axis] % self.count == 0, (x.shape, self)
        rows = torch.empty(len(x), self._row(tuple(x.shape)), dtype=torch.uint8, device=x.device)
        return rows, torch.empty(2, self.count, dtype=torch.float32, device=x.device)
