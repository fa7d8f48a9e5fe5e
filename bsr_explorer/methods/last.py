"""Training the last k blocks, with the final norm and the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.bsr import Bsr
from bsr_explorer.methods.subset import Subset
from bsr_explorer.naming import TIMM, Naming

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Last(Subset):
    """The last ``k`` blocks, the final norm and the head train.

    Attributes:
        k: how many blocks, counted from the last.
    """

    k: int = 3

    name: ClassVar[str] = "last"
    summary: ClassVar[str] = "the last k blocks, the final norm and the head train"
    citation: ClassVar[str] = "the usual practice"

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise UserError(f"--method: last(k={self.k!r}): k must be a whole number of at least 1")

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many blocks."""
        return (Numbers("k", tuple(range(1, geometry.depth + 1))),)

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """All blocks of a model that has fewer."""
        return {"k": min(cls.k, depth)}

    def check(self, depth: int) -> None:
        """``k`` is at most the number of blocks."""
        if self.k > depth:
            raise UserError(f"--method: {self}: the model has {depth} blocks, so k must be 1 to {depth}")

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """Whether it lies in one of the last blocks or above them."""
        block = naming.block_of(parameter)
        if block is None:
            return naming.is_head(parameter) or naming.is_final_norm(parameter)
        return block >= depth - self.k

    def canonical(self, depth: int) -> Method:
        """The same as BSR with those blocks and no drop."""
        self.check(depth)
        return Bsr(blocks=tuple(range(depth - self.k, depth)), keep={}).canonical(depth)
