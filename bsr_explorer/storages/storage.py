"""How a tensor that is kept for backward is stored: what every storage says, and the dense one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from bsr_explorer.devices import Device
from bsr_explorer.units import WIDTH

Shape = tuple[int, ...]


Course = tuple[int, ...]
"""Bytes that are taken (> 0), and given back (< 0: the last that was taken of so many)."""


def there_and_back(*sizes: int) -> Course:
    """All taken in order, and given back, the last first; nothing of 0 bytes."""
    taken = tuple(size for size in sizes if size)
    return (*taken, *(-size for size in reversed(taken)))


class Storage(Protocol):
    """How a tensor that is kept for backward is stored. Storages are compared by value."""

    @property
    def packs(self) -> bool:
        """Whether the operation that keeps the tensor packs it itself (``storages``), instead of leaving it to
        autograd and the hooks on what it saves."""
        ...

    @property
    def copies(self) -> bool:
        """Whether what is stored is another tensor than the one that is kept."""
        ...

    @property
    def itself(self) -> bool:
        """Whether that one is held, and needs not be brought back."""
        ...

    @property
    def again(self) -> bool:
        """Whether nothing of it is stored: it is computed again from what an operation below keeps."""
        ...

    def cast_from(self, dtype: str) -> Storage:
        """The same of a tensor that is a cast of another, in this number format."""
        ...

    def fitting(self, shape: Shape) -> Storage:
        """The nearest that a tensor of any shape can be stored in: where its groups do not divide it, another number of
        groups."""
        ...

    def bytes(self, shape: Shape, dtype: str) -> int:
        """Bytes that a tensor of this shape and dtype takes."""
        ...

    def pieces(self, shape: Shape, dtype: str) -> tuple[int, ...]:
        """The same by the tensors that it consists of, where they are several."""
        ...

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """Bytes that storing it takes at most, beside what it makes, and gives back."""
        ...

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """Bytes that bringing it back takes at most, beside the tensor that it makes, and gives back."""
        ...

    def pack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """The same piece by piece, in order."""
        ...

    def unpack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """The same piece by piece, in order."""
        ...

    def passing(self, shape: Shape, dtype: str) -> int:
        """Bytes, beside, that are here only while the operation that packs it runs, forward and backward."""
        ...

    def pack_flops(self, shape: Shape) -> int:
        """FLOPs of storing it, 2 a multiply-add."""
        ...

    @property
    def factors(self) -> Factors | None:
        """How a linear layer makes its weight's gradient of what is kept of its input; None: of the input, which is
        brought back."""
        ...


class Factors(Protocol):
    """How a linear layer makes its weight's gradient of what is kept of its input, which is not brought back."""

    def gradient_flops(self, shape: Shape, out: int) -> int:
        """FLOPs of that, 2 a multiply-add.

        Args:
            shape: of the input, (…, in).
            out: outputs of the layer.
        """
        ...

    def gradient_scratch(self, shape: Shape, out: int, dtype: str) -> int:
        """Bytes that it takes at most, beside the gradient (out, in), and gives back."""
        ...

    def gradient_steps(self, shape: Shape, out: int, dtype: str) -> tuple[tuple[int, ...], ...]:
        """Bytes of what is there together before the gradient is made, step by step, and is given back."""
        ...


class AtOnce:
    """A storage that needs nothing on the way, where it does not say otherwise."""

    packs: ClassVar[bool] = False
    copies: ClassVar[bool] = True
    itself: ClassVar[bool] = False
    again: ClassVar[bool] = False

    def cast_from(self, dtype: str) -> Self:
        """It does not matter."""
        return self

    def pieces(self, shape: Shape, dtype: str) -> tuple[int, ...]:
        """One."""
        return ()

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """None."""
        return 0

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """None."""
        return 0

    def pack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """What ``pack_scratch`` says, at once."""
        return there_and_back(self.pack_scratch(shape, dtype, device))

    def unpack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """What ``unpack_scratch`` says, at once."""
        return there_and_back(self.unpack_scratch(shape, dtype, device))

    def passing(self, shape: Shape, dtype: str) -> int:
        """None."""
        return 0

    def pack_flops(self, shape: Shape) -> int:
        """None."""
        return 0

    @property
    def factors(self) -> Factors | None:
        """None: it is brought back."""
        return None


@dataclass(frozen=True)
class Dense(AtOnce):
    """Stored as it is."""

    copies: ClassVar[bool] = False
    itself: ClassVar[bool] = True

    def fitting(self, shape: Shape) -> Dense:
        """It always does."""
        return self

    def bytes(self, shape: Shape, dtype: str) -> int:
        """Every element at its own width."""
        return math.prod(shape) * WIDTH[dtype]


DENSE = Dense()
