"""LoRA-FA: LoRA whose first matrix is frozen as it was drawn.

Then nothing keeps a layer's input for its gradient: what is kept is A·x, of r numbers a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bsr_explorer.methods.lora import UP, Lora


@dataclass(frozen=True, eq=False, repr=False)
class LoraFA(Lora):
    """The second matrices of the updates of chosen layers, and the head, train.

    Attributes:
        r, on, alpha: see ``Lora``.
    """

    name: ClassVar[str] = "lora_fa"
    summary: ClassVar[str] = "LoRA, of which the first matrix is frozen: it keeps r numbers a token"
    citation: ClassVar[str] = "Zhang et al., LoRA-FA (arXiv 2308.03303)"

    def is_own(self, parameter: str) -> bool:
        """Whether it is an update's second matrix."""
        return parameter.endswith(f".{UP}.weight")
