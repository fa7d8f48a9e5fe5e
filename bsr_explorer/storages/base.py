"""The interface of a packed storage: its bytes in closed form, pack and unpack."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.devices import Device, device_or_cpu
from bsr_explorer.storages.storage import Course, Factors, Shape, there_and_back

if TYPE_CHECKING:
    import torch

    Packed = tuple[torch.Tensor, ...]


class Packing(ABC):
    """How a tensor that autograd keeps is packed.

    Packings are compared by value: two operations that keep one tensor with equal packings hold it once. All
    sizes here are exact, those of a pass on the way (``…_scratch``) on the CPU. (A real tensor is packed as the record
    of its device says: ``devices.device_or_cpu``.)
    """

    packs: ClassVar[bool] = True
    copies: ClassVar[bool] = True
    itself: ClassVar[bool] = False
    """Whether it neither packs nor copies: what is unpacked is then the tensor itself, which must not be changed."""
    again: ClassVar[bool] = False
    """See ``Storage``."""
    derivative: ClassVar[bool] = False
    """Whether what is unpacked is not the tensor that an activation read, but the activation's derivative there."""

    one_by_one: ClassVar[bool] = False
    """Whether each image has a threshold of its own."""

    def cast_from(self, dtype: str) -> Packing:
        """See ``Storage``: it does not matter."""
        return self

    def fitting(self, shape: Shape) -> Packing:
        """See ``Storage``."""
        return self

    @abstractmethod
    def bytes(self, shape: Shape, dtype: str) -> int:
        """Bytes of what is kept of a tensor of this shape and number format."""

    def pieces(self, shape: Shape, dtype: str) -> tuple[int, ...]:
        """The same by the tensors that ``form`` makes; nothing where it is one."""
        return ()

    @abstractmethod
    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """Bytes that packing takes at most, beside what it makes, and gives back."""

    @abstractmethod
    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """Bytes that unpacking takes at most, beside the tensor that it makes, and gives back."""

    def pack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """What packing takes and gives back, piece by piece; what ``pack_scratch`` says, where nothing is known."""
        return there_and_back(self.pack_scratch(shape, dtype, device))

    def unpack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """What unpacking takes and gives back, piece by piece; what ``unpack_scratch`` says, where nothing is known."""
        return there_and_back(self.unpack_scratch(shape, dtype, device))

    def passing(self, shape: Shape, dtype: str) -> int:
        """None: what is packed stays here."""
        return 0

    def pack_flops(self, shape: Shape) -> int:
        """None: it multiplies no matrices."""
        return 0

    @property
    def factors(self) -> Factors | None:
        """None: what is packed is brought back."""
        return None

    @abstractmethod
    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """What is kept of a contiguous tensor: the first dimension counts images.

        Args:
            running: what is known from earlier steps, of the shape ``remembers`` (ranges, (2, groups)): brought up to
                date in place.
        """

    @abstractmethod
    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """A new tensor, as like the one that was packed as what was kept allows."""

    @abstractmethod
    def form(self, x: torch.Tensor) -> Packed:
        """Tensors of the same form as ``pack`` makes, with nothing in them."""

    def fuses(self, device: Device) -> bool:
        """Whether, by a device's record, kernels of our own pack and unpack it; not every packing has some."""
        return False

    def runs_fused(self, device: torch.device) -> bool:
        """Whether they do on a real one, where they must also work."""
        if not self.fuses(device_or_cpu(device.type)):
            return False
        from bsr_explorer.storages.fused import usable

        return usable(device)

    @property
    def groups(self) -> int:
        """How many running ranges it needs; none, if it remembers nothing from step to step."""
        return 0

    @property
    def remembers(self) -> Shape:
        """Shape of what it remembers from step to step, in fp32 (not a number where nothing was seen yet); empty, if
        that is nothing."""
        return (2, self.groups) if self.groups else ()

    def remembers_of(self, shape: Shape) -> Shape:
        """The same once a tensor of this shape was packed, where that depends on it (``remembers`` is then (0,))."""
        return self.remembers


class Factored(Packing):
    """A packing of which a linear layer makes its weight's gradient without bringing its input back."""

    @property
    def factors(self) -> Factors | None:
        """Itself."""
        return self

    @abstractmethod
    def gradient_flops(self, shape: Shape, out: int) -> int:
        """See ``Factors``."""

    @abstractmethod
    def gradient_scratch(self, shape: Shape, out: int, dtype: str) -> int:
        """See ``Factors``."""

    def gradient_steps(self, shape: Shape, out: int, dtype: str) -> tuple[tuple[int, ...], ...]:
        """None, where it does not say."""
        return ()

    @abstractmethod
    def weight_gradient(self, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        """The gradient (out, in) of a linear layer's weight.

        Args:
            packed: of its input (B, …, in).
            rows: the gradient of its output, (B·…, out).
        """


def per_image(shape: Shape) -> int:
    """Elements of one image."""
    return math.prod(shape[1:])


def in_parts(images: int, at_once: int) -> list[int]:
    """How many images each part of a batch has."""
    whole, rest = divmod(images, at_once)
    return [at_once] * whole + [rest] * bool(rest)


def images_at_once(shape: Shape, device: Device) -> int:
    """Images that are packed together."""
    return min(shape[0], max(1, device.at_once // per_image(shape)))
