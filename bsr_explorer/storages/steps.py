"""A storage of an activation's derivative, in 2 bits (Approx-BP's ReGELU2)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.devices import Device, device_or_cpu
from bsr_explorer.storages.base import Packing, images_at_once, per_image
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import WIDTH

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed

JUMPS = (-0.04922261, 1.09796321, -0.04874060)
"""a₁, a₂, a₃ of ReGELU2."""

AT = (-3.18588100, -0.00117882, 3.19083261)
"""c₁, c₂, c₃: where the step function Σ aₖ·[x > cₖ], in the place of GELU's derivative, jumps."""

LEVELS = (0.0, *accumulate(JUMPS))
"""Its four values, from left to right."""

_BITS = 2


@dataclass(frozen=True)
class Steps(Packing):
    """Of each element x, between which of ``AT`` it lies: 0 to 3. What is unpacked is no tensor as like x as can be,
    but the derivative of GELU as ``LEVELS`` have it."""

    derivative: ClassVar[bool] = True

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``: each image in whole bytes."""
        return shape[0] * self._row(shape)

    def _row(self, shape: Shape) -> int:
        return -(-per_image(shape) * _BITS // 8)

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``: the steps so far, a byte each, and the next comparison."""
        return 2 * images_at_once(shape, device) * per_image(shape)

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``: of a quarter of the elements, the steps as positions, and their levels."""
        quarter = images_at_once(shape, device) * self._row(shape)
        return quarter * (WIDTH["int32"] + WIDTH[dtype]) + len(LEVELS) * WIDTH[dtype]

    def form(self, x: torch.Tensor) -> Packed:
        """See ``Packing``: a row an image."""
        import torch

        return (torch.empty(len(x), self._row(tuple(x.shape)), dtype=torch.uint8, device=x.device),)

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``. The first quarter of an image lies in the lowest bits."""
        import torch

        (out,) = self.form(x)
        at_once = images_at_once(tuple(x.shape), device_or_cpu(x.device.type))
        for images, rows in zip(x.view(len(x), -1).split(at_once), out.split(at_once), strict=True):
            steps = (images > AT[0]).view(torch.uint8)
            for place in AT[1:]:
                steps.add_((images > place).view(torch.uint8))
            span = rows.shape[1]
            rows.copy_(steps[:, :span])
            for place in range(1, 8 // _BITS):
                count = max(0, min(span, steps.shape[1] - place * span))
                rows[:, :count].bitwise_or_(steps[:, place * span :][:, :count] << (_BITS * place))
            del steps  # before the next ones are made
        return (out,)

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``: the derivative."""
        import torch

        (rows,) = packed
        x = torch.empty(shape, dtype=dtype, device=rows.device)
        levels = torch.empty(len(LEVELS), dtype=dtype, device=rows.device)
        for place, level in enumerate(LEVELS):  # by kernels: a copy from the host would wait for it
            levels[place].fill_(level)
        at_once = images_at_once(shape, device_or_cpu(rows.device.type))
        for images, some in zip(x.view(len(x), -1).split(at_once), rows.split(at_once), strict=True):
            for place, piece in enumerate(images.split(some.shape[1], dim=1)):
                count = piece.shape[1]
                steps = (some[:, :count] >> (_BITS * place)).bitwise_and_(2**_BITS - 1).to(torch.int32)
                piece.copy_(levels.index_select(0, steps.view(-1)).view(-1, count))
                del steps
        return x
