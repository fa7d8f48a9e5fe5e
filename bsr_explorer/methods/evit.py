"""EViT: the same share of tokens is kept at each quarter of the depth, and the others are fused into one.

It is ``drop`` with one rate, and known as that in records and figures. Of N tokens, the class token among them, and a
token fused earlier, ``ceil(keep · (N − 1))`` stay beside it, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.methods.at_quarters import RATES, AtQuarters
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.drop import Drop, halves_at_quarters
from bsr_explorer.naming import blocks_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry, Selection


@dataclass(frozen=True, eq=False, repr=False)
class Evit(AtQuarters):
    """EViT's token drops."""

    name: ClassVar[str] = "evit"
    summary: ClassVar[str] = "tokens are dropped and fused by class attention, at one rate"
    citation: ClassVar[str] = "Liang et al., EViT, ICLR 2022 (arXiv 2202.07800)"

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """The authors' rates, where there is a class token to drop by."""
        return (Numbers("keep", RATES if geometry.class_token else (1.0,)),)

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """Without a class token to drop by, every token stays."""
        return {"keep": cls().keep if class_token else 1.0}

    def drop(self, depth: int) -> Drop:
        """The same as a drop, in a model of ``depth`` blocks."""
        return Drop(dict.fromkeys(halves_at_quarters(depth), self.keep))

    def drops(self, depth: int) -> dict[int, Selection]:
        """See ``Drop``."""
        return self.drop(depth).drops(depth)

    def rewrite(self, tape: Tape) -> Tape:
        """See ``Drop``."""
        return self.drop(len(tape.blocks)).rewrite(tape)

    def apply(self, model: nn.Module) -> nn.Module:
        """See ``Drop``."""
        return self.drop(len(blocks_of(model))).apply(model)

    def canonical(self, depth: int) -> Method:
        """The drop."""
        return self.drop(depth).canonical(depth)
