"""LISA: a few blocks, drawn anew every few steps, train, with all that stands outside of the blocks.

As in the authors' code, the optimiser's state of a block goes when the block rests (``forget``), so that state is held
of the blocks that train alone; theirs draws every 20 steps by default, which short trainings would see once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import whole_number
from bsr_explorer.methods.arguments import check_flags, quiet
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import PARAMETERS, STEPS
from bsr_explorer.methods.moving import Moving, check_count, drawn
from bsr_explorer.methods.steps import Choice, Shape, Steps, drawn_from
from bsr_explorer.naming import TIMM, blocks_of, naming_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Lisa(Moving):
    """Blocks that are drawn train, and all that stands outside of the blocks.

    Attributes:
        k: how many blocks.
        every: steps after which others are drawn.
        forget: whether the optimiser's state of a block goes when the block rests.
    """

    k: int = 2
    every: int = quiet(5)
    forget: bool = quiet(True)

    name: ClassVar[str] = "lisa"
    summary: ClassVar[str] = "a few blocks, drawn anew every few steps, train, and all outside of the blocks"
    citation: ClassVar[str] = "Pan et al., LISA, NeurIPS 2024 (arXiv 2403.17919)"
    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS, STEPS)

    def __post_init__(self) -> None:
        whole_number(self, "k")
        whole_number(self, "every")
        check_flags(self, ("forget",))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many blocks."""
        return (Numbers("k", tuple(k for k in (1, 2, 4) if k <= geometry.depth)),)

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """All blocks of a model that has fewer."""
        return {"k": min(cls.k, depth)}

    @property
    def forgets(self) -> bool:
        """See ``Method``."""
        return self.forget

    def steps(self, depth: int) -> Steps:
        """Blocks are drawn evenly."""
        check_count(self, "k", self.k, depth)
        return drawn_from(
            (Choice(tuple(TIMM.path(block) for block in range(depth)), self.k),),
            Shape,
            str(self),
            f"{comb(depth, self.k):,} choices of blocks are equally likely",
        )

    def check_length(self, steps: int) -> None:
        """Every block may be drawn."""
        if steps < self.every:
            raise UserError(
                f"--method: {self} draws other blocks every {self.every} steps, and the training has {steps}; "
                f"let every be at most {steps}, or train for longer"
            )

    def rewrite(self, tape: Tape) -> Tape:
        """All may train."""
        check_count(self, "k", self.k, len(tape.blocks))
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """All may train."""
        check_count(self, "k", self.k, len(blocks_of(model)))
        return model.requires_grad_()

    def choose(self, model: nn.Module, done: int, total: int) -> Shape:
        """Other blocks, when it is time."""
        from bsr_explorer.methods.applied.moving import turned

        if done % self.every:
            return turned(model).shape
        depth = len(blocks_of(model))
        train, naming = drawn(self.k, depth), naming_of(model)
        return Shape(tuple(naming.path(block) for block in range(depth) if block not in train))
