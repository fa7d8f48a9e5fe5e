"""Mesa: the forward pass is exact; tensors that blocks keep for backward are quantised to 8 bits.

arXiv 2111.11124. Every tensor that a linear layer, a matrix product, a softmax, a GELU or a LayerNorm keeps is
quantised between the running minimum and maximum of its group, with stochastic rounding. Deviations from the
authors' code:

* values above the running range are clamped; theirs wrap around, so that 300 comes back as 44 where 256 numbers are
  told apart. Of DeiT-S, after the first step, the gradients' error is 0.044 to 0.052 here and 0.118 to 0.205 there;
* one random draw rounds four numbers, which lie far apart (theirs: a draw each); the mean is still right;
* norms keep their own epsilon (theirs sets 1e-5; with DeiT-S's 1e-6 and DINOv2's weights at 112 px, that alone changes
  logits by 0.4% and gradients by 1.9%);
* the ranges that a tensor was quantised with are kept with it, so that a second forward pass before the backward
  pass does not change them;
* the softmax is stored once (theirs: as its own input, as its output, and as the next product's operand; the
  gradient needs the output alone);
* bits are packed, and no CUDA extension is needed;
* what stands outside the blocks is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.axes import Axis, Choices, Flag, Numbers
from bsr_explorer.methods.storing import Storing
from bsr_explorer.storages import Packing, Quantized, Rebuilt

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry

GROUPS = ("heads", "channels", "tensor")


@dataclass(frozen=True, eq=False, repr=False)
class Mesa(Storing):
    """Quantised activations.

    Attributes:
        bits: of each number: 8 (the paper's), 4 or 2.
        groups: what has a range of its own: each attention head, or as many contiguous groups of channels
            (``heads``); each channel (``channels``; of a softmax, each head); or a whole tensor (``tensor``). Left
            out: ``heads`` if faithful, else ``channels``.
        ema: how much of the range of earlier steps stays in the one that is used; 0 takes each step's own, and
            clamps nothing. Left out: 0.9 if faithful, else 0.
        faithful: as published: explicit softmax, and every tensor that an operation keeps quantised. Otherwise our
            best: attention as the configuration says (fused keeps no softmax), and what linear layers read computed
            again from what the norm or the GELU before them keeps. It takes less memory, and gradients are nearer to
            the exact ones, because a channel's range is narrower than that of a group of them, and is that of the step.
    """

    bits: int = 8
    groups: str | None = None
    ema: float | None = None
    faithful: bool = quiet(True)

    name: ClassVar[str] = "mesa"
    summary: ClassVar[str] = "blocks keep their tensors in few bits"
    citation: ClassVar[str] = "Mesa: A Memory-saving Training Framework for Transformers (arXiv 2111.11124)"

    by_call: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in (8, 4, 2):
            raise UserError(f"--method: mesa(bits={self.bits!r}): bits must be 8, 4 or 2")
        if not isinstance(self.faithful, bool):
            raise UserError(f"--method: mesa(faithful={self.faithful!r}): faithful must be True or False")
        if self.groups is None:
            object.__setattr__(self, "groups", "heads" if self.faithful else "channels")
        if self.groups not in GROUPS:
            raise UserError(
                f"--method: mesa(groups={self.groups!r}): groups must be {', '.join(map(repr, GROUPS[:-1]))} or "
                f"{GROUPS[-1]!r}"
            )
        if self.ema is None:
            object.__setattr__(self, "ema", 0.9 if self.faithful else 0.0)
        if isinstance(self.ema, bool) or not isinstance(self.ema, (int, float)) or not 0 <= self.ema < 1:
            raise UserError(f"--method: mesa(ema={self.ema!r}): ema must be at least 0 and below 1")
        object.__setattr__(self, "ema", float(self.ema))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Bits, and as published or not; groups as it takes them by itself, if a study names no others."""
        return Numbers("bits", (2, 4, 8)), Choices("groups", (None,)), Flag("faithful")

    @property
    def explicit_softmax(self) -> bool:
        """As published."""
        return self.faithful

    def stores(self, place: str, heads: int, channels: int) -> Packing | Rebuilt | None:
        """See ``Storing``."""
        ema = self.ema or 0.0
        if place == ("normalized" if self.faithful else "residual"):
            return None
        if place == "softmax":
            return Quantized(self.bits, 1 if self.groups == "tensor" else heads, 1, ema)
        by_head = 3 * heads if place == "qkv" else heads
        count = {"heads": by_head, "channels": channels, "tensor": 1}[str(self.groups)]
        quantized = Quantized(self.bits, count, ema=ema)
        again = place in ("normed", "activated") and not self.faithful
        return Rebuilt(quantized) if again else quantized
