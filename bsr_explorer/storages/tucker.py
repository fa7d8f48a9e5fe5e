"""A storage of a Tucker decomposition: a small core, and a basis of images, of tokens and of channels (ASI's)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from bsr_explorer.devices import Device
from bsr_explorer.storages.base import Factored
from bsr_explorer.storages.storage import Course, Shape, there_and_back
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed

Ranks = tuple[float, float, float]
"""Of images, tokens and channels: a whole number (``int``), or a share of how many there are (``float``)."""

MODES = ("images", "tokens", "channels")
"""What the dimensions of a tensor (B, N, I) count."""


@dataclass(frozen=True)
class Tucker(Factored):
    """x (B, N, I) as a core S (K₁, K₂, K₃) and bases U₁ (B, K₁), U₂ (N, K₂), U₃ (I, K₃) with orthonormal columns.

    What it stands for is x̂ = S ×₁ U₁ ×₂ U₂ ×₃ U₃ with S = x ×₁ U₁ᵀ ×₂ U₂ᵀ ×₃ U₃ᵀ. Each basis is that of the step
    before, turned once by the tensor: U ← Q of the QR decomposition of A·(Aᵀ·U), where A is the tensor unfolded along
    U's dimension. On a tensor that stays the same this converges to its largest singular vectors. The first U is drawn;
    with all ranks, x̂ is x from the third step on. (The first may be some thousandths off where U is no square.)
    A linear layer's weight gradient gᵀ·x̂ is made without x̂.

    Products are made in the tensor's number format; a QR decomposition in fp32, as it has no narrower one.

    Attributes:
        ranks: K₁, K₂, K₃. Whatever they are, none is more than its dimension, or than the product of the other two,
            which is all that a core can use.
    """

    ranks: Ranks

    def asked(self, shape: Shape) -> tuple[int, ...]:
        """The ranks as they are given, shares as numbers."""
        return tuple(
            rank if isinstance(rank, int) else min(size, max(1, round(rank * size)))
            for rank, size in zip(self.ranks, shape, strict=True)
        )

    def found(self, shape: Shape) -> tuple[int, ...]:
        """K₁, K₂, K₃ of a tensor."""
        ranks = [min(rank, size) for rank, size in zip(self.asked(shape), shape, strict=True)]
        for mode, rank in enumerate(ranks):  # at most one, the largest, is more than the others' product
            ranks[mode] = min(rank, math.prod(ranks) // rank)
        return tuple(ranks)

    def _bases(self, shape: Shape) -> list[int]:
        """Elements of U₁, U₂, U₃."""
        return [size * rank for size, rank in zip(shape, self.found(shape), strict=True)]

    @property
    def remembers(self) -> Shape:
        """Nothing, until a tensor was seen."""
        return (0,)

    def remembers_of(self, shape: Shape) -> Shape:
        """U₁, U₂, U₃, one behind the other."""
        return (sum(self._bases(shape)),)

    # --- what it costs --------------------------------------------------------------------------------------

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``: core and bases."""
        return sum(self.pieces(shape, dtype))

    def pieces(self, shape: Shape, dtype: str) -> tuple[int, ...]:
        """See ``Packing``."""
        return tuple(n * WIDTH[dtype] for n in (math.prod(self.found(shape)), *self._bases(shape)))

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``."""
        return max(accumulate(self.pack_course(shape, dtype, device)))

    def pack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """See ``Packing``: for each basis Aᵀ·U, A·(Aᵀ·U), Q and R; then the core, dimension by dimension."""
        ranks = self.found(shape)
        changes = [change for mode in range(3) for change in self._turning(mode, shape, dtype, ranks[mode])]
        narrow = WIDTH[dtype]
        channels = shape[0] * shape[1] * ranks[2] * narrow
        changes += [channels, tokens := shape[0] * ranks[1] * ranks[2] * narrow, -channels, -tokens]
        return tuple(changes)

    def _turning(self, mode: int, shape: Shape, dtype: str, rank: int) -> Iterator[int]:
        """What turning a basis takes and gives back."""
        size, narrow, cast = shape[mode], WIDTH[dtype], dtype != "fp32"
        before = size * rank * narrow
        across = math.prod(shape) // size * rank * narrow
        yield from (before, across, -before) if cast else (across,)
        yield from there_and_back(rank * WIDTH["fp32"], *([rank * narrow] if cast else []))
        made = (shape[0] if mode == 1 else 1) * before
        yield from (made, -across)
        basis = size * rank * WIDTH["fp32"]
        if cast or mode == 1:
            yield from (basis, -made)
        yield from (basis, rest := rank * rank * WIDTH["fp32"], -rest, -basis, -basis)

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``: the core with its channels brought back, then with its images."""
        images, tokens, _ = self.found(shape)
        return (images + shape[0]) * tokens * shape[2] * WIDTH[dtype]

    def pack_flops(self, shape: Shape) -> int:
        """See ``Storage``. (A QR decomposition is no product.)"""
        images, tokens, channels = self.found(shape)
        turning = 2 * (images + tokens + channels) * math.prod(shape)
        core = channels * math.prod(shape) + shape[0] * tokens * channels * (shape[1] + images)
        return FLOPS_PER_MAC * (turning + core)

    def gradient_flops(self, shape: Shape, out: int) -> int:
        """See ``Factors``."""
        return self.core_flops(shape, out) + FLOPS_PER_MAC * out * self.found(shape)[2] * shape[2]

    def core_flops(self, shape: Shape, out: int) -> int:
        """FLOPs of ``core_gradient``."""
        images, tokens, channels = self.found(shape)
        projected = shape[0] * tokens * (shape[1] + images)
        return FLOPS_PER_MAC * out * (projected + images * tokens * channels)

    def gradient_scratch(self, shape: Shape, out: int, dtype: str) -> int:
        """See ``Factors``: M."""
        return out * self.found(shape)[2] * WIDTH[dtype]

    def gradient_steps(self, shape: Shape, out: int, dtype: str) -> tuple[tuple[int, ...], ...]:
        """See ``Factors``: of g its projection on tokens, then on images, and M of that."""
        images, tokens, _ = self.found(shape)
        first, second = (n * tokens * out * WIDTH[dtype] for n in (shape[0], images))
        return (first, second), (second, self.gradient_scratch(shape, out, dtype))

    # --- what it does ---------------------------------------------------------------------------------------

    def form(self, x: torch.Tensor) -> Packed:
        """See ``Packing``: core, U₁, U₂, U₃."""
        ranks = self.found(tuple(x.shape))
        return x.new_empty(ranks), *(x.new_empty(n, rank) for n, rank in zip(x.shape, ranks, strict=True))

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``. The bases are kept beside, so that what is packed stands for itself."""
        import torch

        from bsr_explorer.storages import packing

        core, *bases = self.form(x)
        starts: list[torch.Tensor | None] = [None, None, None]
        if running is not None:
            if not packing.has_seen(running):
                running.normal_()
            parts = running.split([basis.numel() for basis in bases])
            starts = [part.view_as(basis) for part, basis in zip(parts, bases, strict=True)]
        with torch.autocast(x.device.type, enabled=False):
            for mode, (start, basis) in enumerate(zip(starts, bases, strict=True)):
                turned = _turned(x, mode, basis.shape[1], start)
                basis.copy_(turned)
                if start is not None:
                    start.copy_(turned)
                del turned
            projected = x.view(-1, x.shape[2]).mm(bases[2])
            projected = _each(bases[1].t(), projected.view(*x.shape[:2], -1))
            torch.mm(bases[0].t(), projected.view(len(x), -1), out=core.view(len(core), -1))
        return core, *bases

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``: x̂."""
        import torch

        core, images, tokens, channels = packed
        x = core.new_empty(shape)
        again = core.view(-1, core.shape[2]).mm(channels.t())
        again = images.mm(again.view(len(core), -1))
        each = tokens.unsqueeze(0).expand(len(x), -1, -1)
        return torch.bmm(each, again.view(len(x), tokens.shape[1], -1), out=x)

    def weight_gradient(self, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        """See ``Factored``: M·U₃ᵀ."""
        return self.core_gradient(packed, rows).mm(packed[3].t())

    def core_gradient(self, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        """M (out, K₃): the product of the core and of g on U₁ and U₂."""
        core, images, tokens, _ = packed
        made = _each(tokens.t(), rows.view(len(images), len(tokens), -1))
        made = images.t().mm(made.view(len(images), -1)).view(-1, rows.shape[1])
        return made.t().mm(core.view(-1, core.shape[2]))


def _each(matrix: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """The product of one matrix (n, m) with each of a batch (B, m, …)."""
    return matrix.unsqueeze(0).expand(len(of), -1, -1).bmm(of)


def _turned(x: torch.Tensor, mode: int, rank: int, start: torch.Tensor | None) -> torch.Tensor:
    """Q of A·(Aᵀ·U), (size, rank) in fp32, where A is x unfolded along a dimension, and U the start, or drawn."""
    import torch

    if start is None:
        start = torch.randn(x.shape[mode], rank, device=x.device)
    start = start.to(x.dtype)
    tokens = x.view(-1, x.shape[2])
    if mode == 1:
        across = x.transpose(1, 2).bmm(start.unsqueeze(0).expand(len(x), -1, -1))
    else:
        across = tokens.mm(start) if mode == 2 else x.view(len(x), -1).t().mm(start)
    del start
    # Columns of length 1 span the same, and their products are no larger than fp16 can hold.
    columns = across.view(-1, rank)
    columns.div_(
        torch.linalg.vector_norm(columns, dim=0, dtype=torch.float32)
        .to(x.dtype)
        .clamp_min_(torch.finfo(x.dtype).tiny)
    )
    del columns
    if mode == 1:
        made = x.bmm(across)
        del across
        made = made.sum(0, dtype=torch.float32)
    else:
        made = tokens.t().mm(across) if mode == 2 else x.view(len(x), -1).mm(across)
        del across
        made = made.float()
    turned: torch.Tensor = torch.linalg.qr(made).Q
    return turned
