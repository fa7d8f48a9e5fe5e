"""Linear probing: only the head trains, on features that never change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bsr_explorer.methods.base import Method
from bsr_explorer.methods.bsr import Bsr
from bsr_explorer.methods.subset import Subset
from bsr_explorer.naming import TIMM, Naming


@dataclass(frozen=True, eq=False, repr=False)
class Linear(Subset):
    """The classification head trains and nothing else: no graph reaches the backbone."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "only the head trains (linear probe)"
    citation: ClassVar[str] = (
        "Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016"
    )

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """Whether it is the head's."""
        return naming.is_head(parameter)

    def canonical(self, depth: int) -> Method:
        """The same as BSR without blocks, drops and final norm."""
        return Bsr((), {}, norm=False).canonical(depth)
