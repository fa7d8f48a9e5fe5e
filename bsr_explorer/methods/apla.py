"""APLA: random output rows of the attention projections train.

The gradient of rows W[i] is g[…, i]ᵀ·x: the projection's whole input is kept, which fused attention keeps anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bsr_explorer.methods.partial import Lines


@dataclass(frozen=True, eq=False, repr=False)
class Apla(Lines):
    """Random rows of the weight of each block's attention projection, and the head, train.

    Attributes:
        r: see ``Lines``.
    """

    name: ClassVar[str] = "apla"
    summary: ClassVar[str] = "random output rows of the attention projections train, and the head"
    citation: ClassVar[str] = (
        "Sorkhei et al., APLA: A Simple Adaptation Method for Vision Transformers (arXiv 2503.11335)"
    )
    part: ClassVar[str] = "rows"

    @property
    def layers(self) -> tuple[str, ...]:
        """See ``Partial``."""
        return ("proj",)
