"""Mesa: forward exact, and what blocks keep for backward in 8 bits.

arXiv 2111.11124. Every tensor that a linear layer, a matrix product, a softmax, a GELU or a LayerNorm keeps is
quantised between the running minimum and maximum of its group, rounded up or down by chance. Deviations from the
authors' code:

* values beyond the running range are clamped (theirs wrap around);
* the ranges that a tensor was quantised with are kept with it, so that a second forward pass before the backward
  pass does not change them;
* the softmax is stored once (theirs: as its own input, as its output, and as the next product's operand; the
  gradient needs the output alone);
* bits are packed, and no CUDA extension is needed;
* what stands outside the blocks is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.base import quiet
from bsr_explorer.methods.storing import Storing
from bsr_explorer.storages import Packing, Quantized, Rebuilt

GROUPS = ("heads", "tensor")


@dataclass(frozen=True, eq=False, repr=False)
class Mesa(Storing):
    """Quantised activations.

    Attributes:
        bits: of each number: 8 (the paper's), 4 or 2.
        groups: what has a range of its own: each attention head, or as many contiguous groups of channels
            (``heads``); or a whole tensor (``tensor``).
        ema: how much of the range of earlier steps stays in the one that is used; 0 takes each step's own.
        faithful: as published: explicit softmax, every tensor that an operation keeps quantised. Otherwise our best:
            attention as the configuration says (fused keeps no softmax), and what linear layers read computed again
            from what the norm or the GELU before them keeps, which takes about half the memory.
    """

    bits: int = 8
    groups: str = "heads"
    ema: float = 0.9
    faithful: bool = quiet(True)

    name: ClassVar[str] = "mesa"
    summary: ClassVar[str] = "blocks keep their tensors in few bits"
    citation: ClassVar[str] = "Mesa: A Memory-saving Training Framework for Transformers (arXiv 2111.11124)"

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in (8, 4, 2):
            raise UserError(f"--method: mesa(bits={self.bits!r}): bits must be 8, 4 or 2")
        if self.groups not in GROUPS:
            raise UserError(f"--method: mesa(groups={self.groups!r}): groups must be {' or '.join(map(repr, GROUPS))}")
        if isinstance(self.ema, bool) or not isinstance(self.ema, (int, float)) or not 0 <= self.ema < 1:
            raise UserError(f"--method: mesa(ema={self.ema!r}): ema must be at least 0 and below 1")
        if not isinstance(self.faithful, bool):
            raise UserError(f"--method: mesa(faithful={self.faithful!r}): faithful must be True or False")
        object.__setattr__(self, "ema", float(self.ema))

    @property
    def explicit_softmax(self) -> bool:
        """As published."""
        return self.faithful

    def stores(self, place: str, heads: int) -> Packing | Rebuilt | None:
        """See ``Storing``."""
        if not self.faithful and place in _SOURCES:
            return Rebuilt(self._quantized(_SOURCES[place], heads))
        return self._quantized(place, heads)

    def _quantized(self, place: str, heads: int) -> Quantized:
        if self.groups == "tensor":
            return Quantized(self.bits, 1, -1, self.ema)
        count = 3 * heads if place == "qkv" else heads
        return Quantized(self.bits, count, 1 if place == "softmax" else -1, self.ema)


_SOURCES = {"normed": "residual", "activated": "hidden"}
"""What is computed again, and from what."""
