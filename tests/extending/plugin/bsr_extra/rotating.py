"""One block trains in each step, in turn (as BAdam and LISA do, simplified): a method that changes by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.methods.full import Full
from bsr_explorer.naming import blocks_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class Rotating(Full):
    """Of the blocks, one trains in each step. Costs are those of the fullest step: all trains."""

    name: ClassVar[str] = "rotating"
    summary: ClassVar[str] = "one block trains in each step, in turn"
    citation: ClassVar[str] = "Luo et al., BAdam (arXiv 2404.02827), simplified"

    def before_step(self, model: nn.Module, done: int, total: int) -> None:
        """The next block trains; how often each one did is remembered."""
        blocks = blocks_of(model)
        turns = self.own_state(model)["turns"]
        turn = sum(turns) % len(blocks)
        turns[turn] += 1
        for place, block in enumerate(blocks):
            block.requires_grad_(place == turn)

    def own_state(self, model: nn.Module) -> dict[str, Any]:
        """How often each block trained."""
        if not hasattr(model, "turns_taken"):
            model.turns_taken = [0] * len(blocks_of(model))  # type: ignore[assignment]
        return {"turns": model.turns_taken}

    def load_own_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Go on with it."""
        model.turns_taken = list(state["turns"])  # type: ignore[assignment]
