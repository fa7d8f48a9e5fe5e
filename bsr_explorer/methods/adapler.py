"""AdapLeR's learned scorer (arXiv 2203.08991), as what tokens are dropped by.

In AdapLeR, made for text, each layer has a small predictor of how much each token contributes, and a threshold that
trains. In training a soft mask fades tokens below the threshold: all of them stay, and nothing is saved. Below it,
tokens go at inference alone.

Here the predictor, a linear layer of the tokens with a softmax over the patches, takes the place of the class token's
attention in EViT's drops: tokens go in training, too, and that saves. It learns through the weights of the fused token,
which are its scores. A share of the tokens is kept instead of those above a threshold, of which each image would have
another number. (A batch could not lie in one tensor, and no cost could be told beforehand.) Models without a class
token have it, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.at_quarters import AtQuarters
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.drop import halves_at_quarters
from bsr_explorer.methods.full import Full
from bsr_explorer.models.architecture import ARCHITECTURES, architecture_of_model
from bsr_explorer.models.base import LEARNED, Selection
from bsr_explorer.naming import blocks_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class Adapler(AtQuarters):
    """Drops by a learned score. The scorers train, whatever else does, and stay when training is over."""

    name: ClassVar[str] = "adapler"
    summary: ClassVar[str] = "tokens are dropped and fused by a learned score, at one rate"
    citation: ClassVar[str] = (
        "Modarressi et al., AdapLeR: Speeding up Inference by Adaptive Length Reduction, ACL 2022 (arXiv 2203.08991)"
    )

    @property
    def _selection(self) -> Selection:
        return Selection(self.keep, fuse=True, faithful=True, criterion=LEARNED)

    def drops(self, depth: int) -> dict[int, Selection]:
        """At each quarter of the depth."""
        return dict.fromkeys(halves_at_quarters(depth) if self.keep < 1 else (), self._selection)

    def rewrite(self, tape: Tape) -> Tape:
        """Drop tokens from the lowest block to the highest."""
        for block, selection in self.drops(len(tape.blocks)).items():
            tape = ARCHITECTURES[tape.architecture].drop_tokens(tape, block, selection)
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """Let the blocks at each quarter drop tokens."""
        for block, selection in self.drops(len(blocks_of(model))).items():
            architecture_of_model(model).drop_tokens_in(model, block, selection)
        return model

    def canonical(self, depth: int) -> Method:
        """Full fine-tuning, where all tokens are kept."""
        return self if self.keep < 1 else Full()
