"""Approx-BP: GELU keeps 2 bits of each element.

The forward pass is exact. In the backward pass GELU's derivative is a step function of four values, Σ aₖ·[x > cₖ], with
the constants that the authors fitted (ReGELU2): all that has to be kept of x is between which of three numbers it lies.
What else the authors do, a LayerNorm that shares what it keeps with the next linear layer (MS-LN), is the method
``msln``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.base import ACTIVATION_INPUTS
from bsr_explorer.methods.storing import Storing
from bsr_explorer.naming import blocks_of
from bsr_explorer.storages import Packing, Steps
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class ApproxBP(Storing):
    """The GELU of every block keeps 2 bits an element."""

    name: ClassVar[str] = "approxbp"
    summary: ClassVar[str] = "GELU keeps 2 bits an element, and its derivative is a step function"
    citation: ClassVar[str] = (
        "Yang et al., Reducing Fine-Tuning Memory Overhead by Approximate and Memory-Sharing Backpropagation, ICML "
        "2024 (arXiv 2406.16282)"
    )
    chooses: ClassVar[tuple[str, ...]] = (ACTIVATION_INPUTS,)

    def stores(self, place: str, heads: int, channels: int) -> Packing | None:
        """See ``Storing``."""
        return Steps() if place == "hidden" else None

    def rewrite(self, tape: Tape) -> Tape:
        """See ``Storing``.

        Raises:
            UserError: no block has a GELU.
        """
        made = super().rewrite(tape)
        self._check_there_is_one(any(op.packs for op in made))
        return made

    def apply(self, model: nn.Module) -> nn.Module:
        """See ``Storing``."""
        self._check_there_is_one(not any(hasattr(block.mlp, "gate_last") for block in blocks_of(model)))
        return super().apply(model)

    def _check_there_is_one(self, there: bool) -> None:
        if not there:
            raise UserError(
                f"--method: {self} is for GELU, and the blocks of this model have none (their MLP is gated); leave it "
                "out, or choose mesa"
            )
