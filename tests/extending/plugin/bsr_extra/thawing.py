"""Linear probing first, then the last block too: a method of two phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.base import PARAMETERS, Method, Phase
from bsr_explorer.methods.last import Last
from bsr_explorer.methods.linear import Linear
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class Thawing(Method):
    """The head trains alone, then the last blocks with it.

    Attributes:
        share: of the steps, for the head alone.
        k: how many blocks train then.
    """

    share: float = 0.5
    k: int = 1

    name: ClassVar[str] = "thawing"
    summary: ClassVar[str] = "the head trains alone, then the last blocks with it"
    citation: ClassVar[str] = "Kumar et al., Fine-Tuning can Distort Pretrained Features, ICLR 2022"
    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS,)

    def phases(self) -> tuple[Phase, ...]:
        """Two."""
        return (Phase(self.share, Linear()), Phase(1 - self.share, Last(self.k)))

    def rewrite(self, tape: Tape) -> Tape:
        """As it begins."""
        return Linear().rewrite(tape)

    def apply(self, model: nn.Module) -> nn.Module:
        """As it begins."""
        return Linear().apply(model)

    @property
    def at_inference(self) -> Method | None:
        """Nothing."""
        return None
