"""Full fine-tuning: everything trains. The reference that every saving is relative to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bsr_explorer.methods.subset import Subset
from bsr_explorer.naming import TIMM, Naming


@dataclass(frozen=True, eq=False, repr=False)
class Full(Subset):
    """Every parameter trains."""

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "everything trains"
    citation: ClassVar[str] = "the usual practice"
    ruled: ClassVar[bool] = True

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """Always."""
        return True
