"""Methods that choose parameters, or blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.arguments import check_range, checked_blocks, quiet
from bsr_explorer.methods.axes import Axis, Choices
from bsr_explorer.methods.base import PARAMETERS, Method
from bsr_explorer.naming import TIMM, Naming, blocks_of, naming_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class OfBlocks(Method):
    """A method that does something to chosen blocks, or to all of them.

    Attributes:
        blocks: 0-based indices, or None: all blocks.
    """

    blocks: tuple[int, ...] | None = quiet(None)

    def __post_init__(self) -> None:
        if self.blocks is not None:
            object.__setattr__(self, "blocks", checked_blocks(self.name, self.blocks))

    @property
    def at_inference(self) -> Method | None:
        """Nothing: it changes how gradients are made."""
        return None

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """All blocks, if a study names no other choices."""
        return (Choices("blocks", (None,)),)

    @property
    def by_block(self) -> bool:
        """Where it does the same to each of them."""
        return self.blocks is None

    def chosen(self, depth: int) -> tuple[int, ...]:
        """The chosen blocks of a model.

        Raises:
            UserError: a block that it does not have.
        """
        if self.blocks is None:
            return tuple(range(depth))
        check_range(self.name, "blocks", self.blocks, depth)
        return self.blocks

    def canonical(self, depth: int) -> Method:
        """All blocks are said as None."""
        return replace(self, blocks=None) if self.chosen(depth) == tuple(range(depth)) else self


@dataclass(frozen=True, eq=False, repr=False)
class Subset(Method):
    """A method that chooses which parameters train; the others are frozen.

    What lies below the lowest trained parameter then runs without a graph by itself.
    """

    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS,)

    @abstractmethod
    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """Whether the parameter of this state-dict name trains, in a model of ``depth`` blocks."""

    @property
    def at_inference(self) -> Method | None:
        """Nothing: it changes what trains."""
        return None

    def check(self, depth: int) -> None:
        """Refuse hyperparameters that a model of ``depth`` blocks does not have.

        Raises:
            UserError: with what would be allowed.
        """
        return

    def rewrite(self, tape: Tape) -> Tape:
        """Freeze all but the chosen parameters."""
        depth = len(tape.blocks)
        self.check(depth)
        self._check_something_trains(tape.parameters, depth, tape.naming)
        return tape.train_only(lambda p: self.trains(p.name, depth, tape.naming))

    def apply(self, model: nn.Module) -> nn.Module:
        """Set ``requires_grad`` of every parameter."""
        depth, naming = len(blocks_of(model)), naming_of(model)
        self.check(depth)
        parameters = dict(model.named_parameters())
        self._check_something_trains(parameters, depth, naming)
        for name, parameter in parameters.items():
            parameter.requires_grad_(self.trains(name, depth, naming))
        return model

    def _check_something_trains(self, parameters: Iterable[str], depth: int, naming: Naming) -> None:
        if not any(self.trains(name, depth, naming) for name in parameters):
            raise UserError(f"--method: {self} trains nothing; let the head, the norm or a block train")
