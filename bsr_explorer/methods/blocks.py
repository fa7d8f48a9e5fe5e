"""Training chosen blocks, with the final norm and the head: what BSR trains, without its token drops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.methods.arguments import bare, check_flags, check_range, checked_blocks, quiet
from bsr_explorer.methods.axes import Axis, Subsets
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.subset import Subset
from bsr_explorer.naming import TIMM, Naming

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Blocks(Subset):
    """Chosen blocks train; written ``blocks(3, 7, 11)``.

    Attributes:
        blocks: 0-based indices; may be empty.
        head: whether the classification head trains.
        norm: whether the final norm trains.
    """

    blocks: tuple[int, ...] = bare((3, 7, 11), each=True)
    head: bool = quiet(True)
    norm: bool = quiet(True)

    name: ClassVar[str] = "blocks"
    summary: ClassVar[str] = "chosen blocks, the final norm and the head train"
    citation: ClassVar[str] = (
        "Block Selective Reprogramming for On-device Training of ViTs (arXiv 2405.10951)"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", checked_blocks(self.name, self.blocks))
        check_flags(self, ("head", "norm"))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Which blocks train."""
        return (Subsets.of("blocks", geometry.depth),)

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """The last block of each third."""
        return {"blocks": ends_of_thirds(depth)}

    def check(self, depth: int) -> None:
        """Every block exists."""
        check_range(self.name, "blocks", self.blocks, depth)

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """Whether it lies in a chosen block, or is the head's or final norm's where those train."""
        block = naming.block_of(parameter)
        if block is not None:
            return block in self.blocks
        return (self.head and naming.is_head(parameter)) or (self.norm and naming.is_final_norm(parameter))

    def canonical(self, depth: int) -> Method:
        """BSR with those blocks and no drop."""
        from bsr_explorer.methods.bsr import Bsr

        self.check(depth)
        return Bsr(self.blocks, {}, head=self.head, norm=self.norm).canonical(depth)


def ends_of_thirds(depth: int) -> tuple[int, ...]:
    """The paper's choice of blocks, made for 12, for a model of ``depth``: the last block of each third."""
    return tuple(sorted({depth // 3 - 1, 2 * depth // 3 - 1, depth - 1} - {-1}))
