"""A storage: every tensor that blocks keep in torch's 8-bit floating-point format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.methods.storing import Storing
from bsr_explorer.storages import Packing
from bsr_explorer.tape import Shape

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Float8(Packing):
    """One byte an element: 4 bits of exponent, 3 of mantissa."""

    def bytes(self, shape: Shape, dtype: str) -> int:
        """One an element."""
        return math.prod(shape)

    def pack_scratch(self, shape: Shape, dtype: str, device: Any) -> int:
        """None: torch converts in one pass."""
        return 0

    def unpack_scratch(self, shape: Shape, dtype: str, device: Any) -> int:
        """None."""
        return 0

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """The elements, rounded."""
        import torch

        return (x.to(torch.float8_e4m3fn),)

    def unpack(self, packed: tuple[torch.Tensor, ...], shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """The rounded elements."""
        return packed[0].to(dtype)

    def form(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One byte an element."""
        import torch

        return (torch.empty_like(x, dtype=torch.float8_e4m3fn),)


@dataclass(frozen=True, eq=False, repr=False)
class Eighth(Storing):
    """What linear layers and activations keep, in 8 bits."""

    name: ClassVar[str] = "eighth"
    summary: ClassVar[str] = "blocks keep linear layers' and activations' inputs in 8-bit floating point"
    citation: ClassVar[str] = "torch's float8_e4m3fn"

    def stores(self, place: str, heads: int, channels: int) -> Packing | None:
        """Inputs of linear layers and of the activation."""
        return Float8() if place in ("normed", "attended", "hidden", "activated") else None
