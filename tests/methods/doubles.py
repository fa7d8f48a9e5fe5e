"""Little methods that stand for any, and a tape to rewrite."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from bsr_explorer.methods.base import Method
from bsr_explorer.methods.subset import OfBlocks, Subset
from bsr_explorer.naming import TIMM, Naming
from bsr_explorer.tape import Op, Parameter, Tape, Tensor


@dataclass(frozen=True, eq=False)
class Suffix(Method):
    """A method that chooses no parameters: it adds to the name of every operation."""

    text: str = "x"

    name: ClassVar[str] = "suffix"
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""

    def rewrite(self, tape: Tape) -> Tape:
        """Add the text to all names."""
        return replace(tape, ops=tuple(replace(op, name=op.name + self.text) for op in tape))

    def apply(self, model: nn.Module) -> nn.Module:
        """Wrap the model."""
        return nn.Sequential(model, nn.Identity())

    @property
    def at_inference(self) -> Method | None:
        """The wrapped model."""
        return self

    def canonical(self, depth: int) -> Method:
        """In small letters."""
        return type(self)(self.text.lower())


@dataclass(frozen=True, eq=False)
class Ending(Suffix):
    """The same under another name."""

    name: ClassVar[str] = "ending"


@dataclass(frozen=True, eq=False)
class Late(Suffix):
    """The same, after everything that changes the model."""

    name: ClassVar[str] = "late"
    stage: ClassVar[int] = 1


@dataclass(frozen=True, eq=False)
class Only(Subset):
    """The parameters of one name train."""

    parameter: str = "head.weight"

    name: ClassVar[str] = "only"
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """Whether it is the one."""
        return parameter == self.parameter


@dataclass(frozen=True, eq=False)
class Touched(OfBlocks):
    """Does nothing to the blocks that it chooses."""

    name: ClassVar[str] = "touched"
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""

    def rewrite(self, tape: Tape) -> Tape:
        """As it is."""
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model


def head() -> Tape:
    weight, bias = Parameter("head.weight", (2, 3), None), Parameter("head.bias", (2,), None)
    op = Op("head", "linear", 0, ("x",), "y", {"weight": "head.weight", "bias": "head.bias"})
    return Tape((Tensor("x", (1, 3), "x"),), {"head.weight": weight, "head.bias": bias}, (op,))
