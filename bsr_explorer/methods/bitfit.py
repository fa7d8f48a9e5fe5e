"""BitFit: all biases and the head train.

Few parameters, but the graph reaches the patch embedding, so nearly everything that a frozen block
keeps while a gradient passes is kept: few gradients are not little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bsr_explorer.methods.subset import Subset
from bsr_explorer.naming import TIMM, Naming


@dataclass(frozen=True, eq=False, repr=False)
class BitFit(Subset):
    """Every bias trains, those of the norms and of the patch embedding among them, and the head."""

    name: ClassVar[str] = "bitfit"
    summary: ClassVar[str] = "all biases and the head train"
    citation: ClassVar[str] = "Ben Zaken et al., BitFit, ACL 2022 (arXiv 2106.10199)"

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """Whether it is a bias or the head's."""
        return parameter.endswith(".bias") or naming.is_head(parameter)
