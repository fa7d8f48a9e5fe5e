"""Token Merging (arXiv 2210.09461): in every block, between attention and MLP, the most alike tokens become one.

Patch tokens are divided in two by turns. Of the first half, the ``r`` that are most like one of the second are merged
into that one, by the mean of all tokens that have become one. Alike are tokens whose keys, averaged over the heads,
point in one direction. The order of what is left is the authors', for the next block divides by it. Prefix tokens
(class token, registers, prompts) are never merged.

With ``proportional=True`` attention is proportional, as the authors have it but for their MAE models: the logarithm of
how many tokens each one is, log s, is added to its logits, softmax(Q·Kᵀ/√d + log s). On a CPU the fused kernel takes
it, and keeps these N numbers of an image; an explicit softmax makes the sum beside the scores, and keeps nothing more.
On CUDA a fused kernel would be given a padded copy: there it is refused, but for an explicit softmax. Without it, which
is left out, attention is the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.arguments import check_flags, quiet
from bsr_explorer.methods.axes import Axis, Flag, Numbers
from bsr_explorer.methods.base import TOKENS, Method
from bsr_explorer.methods.full import Full
from bsr_explorer.models.architecture import ARCHITECTURES, architecture_of_model
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Tome(Method):
    """Token Merging.

    Attributes:
        r: how many tokens each block merges into others; at most half of the patches that there are, and fewer than the
            model's patches. 0 changes nothing.
        proportional: whether tokens receive attention in proportion to how many they are.
    """

    r: int = 8
    proportional: bool = quiet(False)

    name: ClassVar[str] = "tome"
    summary: ClassVar[str] = "in every block, the most alike tokens become one"
    citation: ClassVar[str] = "Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023 (arXiv 2210.09461)"
    chooses: ClassVar[tuple[str, ...]] = (TOKENS,)

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 0:
            raise UserError(f"--method: tome(r={self.r!r}): r must be a whole number of at least 0")
        check_flags(self, ("proportional",))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many; 13 leave few of the 197 tokens of 12 blocks."""
        return (Numbers("r", (0, 4, 8, 13)),)

    @classmethod
    def axes_if_named(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """With sizes in attention, too."""
        return (Flag("proportional"),)

    def rewrite(self, tape: Tape) -> Tape:
        """Merge tokens in each block, from the lowest to the highest."""
        if not self.r:
            return tape
        return ARCHITECTURES[tape.architecture].merge_tokens(tape, self.r, self.proportional)

    def apply(self, model: nn.Module) -> nn.Module:
        """Let each block merge tokens."""
        if self.r:
            architecture_of_model(model).merge_tokens_in(model, self.r, self.proportional)
        return model

    @property
    def at_inference(self) -> Method | None:
        """Itself where it merges tokens."""
        return self if self.r else None

    def canonical(self, depth: int) -> Method:
        """Full fine-tuning, where nothing is merged."""
        return self if self.r else Full()
