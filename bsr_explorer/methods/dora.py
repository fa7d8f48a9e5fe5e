"""DoRA: LoRA whose weight's rows have lengths of their own, which train.

W' = m ⊙ (W + (alpha/r)·B·A)/‖W + (alpha/r)·B·A‖, row by row. The lengths ‖·‖ are constants for the gradient (as the
paper proposes, section 4.3), so that nothing of the summed weight is kept: it is made and given back in each forward
pass. m starts at the lengths of W. When training is over, W' is the plain weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.lora import Lora, is_update
from bsr_explorer.tape import Op, Parameter, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

MAGNITUDE = "lora_magnitude_vector"
"""What PEFT calls the lengths."""


@dataclass(frozen=True, eq=False, repr=False)
class Dora(Lora):
    """The updates of chosen layers of all blocks, the lengths of the sums' rows, and the head, train.

    Attributes:
        r, on, alpha: see ``Lora``.
    """

    name: ClassVar[str] = "dora"
    summary: ClassVar[str] = "LoRA, where the lengths of a weight's rows train apart"
    citation: ClassVar[str] = (
        "Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024 (arXiv 2402.09353)"
    )

    def is_own(self, parameter: str) -> bool:
        """Whether it is an update's matrix, or holds lengths."""
        return is_update(parameter) or parameter.endswith(f".{MAGNITUDE}")

    def brings(self, parameter: str) -> bool:
        """The same."""
        return self.is_own(parameter)

    def beside(self, tape: Tape, op: Op) -> tuple[list[Parameter], list[Op]]:
        """See ``Lora``; at the end, the sum is scaled."""
        parameters, ops = super().beside(tape, op)
        weight = tape.parameters[op.params["weight"]].shape
        lengths = Parameter(f"{op.name}.{MAGNITUDE}", weight[:1], op.block)
        attrs = {"weight": weight, "r": self.r, "bias": "bias" in op.params}
        parts = {"magnitude": lengths.name}
        scaled = Op(
            op.name, "magnitude", op.block, (ops[-1].writes,), f"{op.name}.with_lengths", parts, attrs
        )
        return [lengths, *parameters], [*ops, scaled]

    def apply_to(self, layer: nn.Linear) -> None:
        """See ``Lora``."""
        from bsr_explorer.methods.applied.dora import add_update_with_lengths

        add_update_with_lengths(layer, self.r, self.scale)

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each sum's rows get their lengths."""
        merged = super().merge(weights)
        for name in [name for name in merged if name.endswith(f".{MAGNITUDE}")]:
            layer, lengths = name.removesuffix(f".{MAGNITUDE}"), merged.pop(name)
            weight = merged[f"{layer}.weight"]
            merged[f"{layer}.weight"] = weight * (lengths / weight.norm(dim=1)).unsqueeze(1)
        return merged
