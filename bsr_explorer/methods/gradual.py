"""Gradual unfreezing: the head trains first, then ever more of the last blocks with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.methods.adding import whole_number
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import Method, Phase
from bsr_explorer.methods.last import Last
from bsr_explorer.methods.linear import Linear

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Gradual(Last):
    """For as many steps each: the head, then the last block with it and the final norm, and so on, to the last ``k``.

    Attributes:
        k: blocks that train in the end.
    """

    k: int = 3

    name: ClassVar[str] = "gradual"
    summary: ClassVar[str] = "the head trains, then one more of the last blocks after another, up to k"
    citation: ClassVar[str] = "Howard and Ruder, ULMFiT, ACL 2018 (arXiv 1801.06146)"

    def __post_init__(self) -> None:
        whole_number(self, "k")

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many blocks in the end."""
        return (Numbers("k", tuple(k for k in (2, 3, 6) if k <= geometry.depth)),)

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """All blocks of a model that has fewer."""
        return {"k": min(cls.k, depth)}

    def phases(self) -> tuple[Phase, ...]:
        """One for each number of blocks."""
        each = 1 / (self.k + 1)
        return (Phase(each, Linear()), *(Phase(each, Last(k)) for k in range(1, self.k + 1)))

    def canonical(self, depth: int) -> Method:
        """Itself: it is no choice of blocks."""
        self.check(depth)
        return self
