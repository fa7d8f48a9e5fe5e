"""TinyTL: lite residual modules beside the blocks and all biases train; weights are frozen.

To what leaves a block is added, with x what enters it,

    spread(m(pool(x))),

where pool takes means of two by two patches, m is a module of ``methods.lite``, and spread lays each token in the place
of the patches that it stands for. Tokens before the patches (the class token) get the mean of all. The last norm of
each module starts at zero, so that training begins as ``bitfit`` does.

TinyTL was made for convolutional networks, where a frozen layer with a trained bias keeps nothing. On a transformer
that does not carry over: a gradient passes through every block, and of attention, norms and GELU it takes (6 + m)·x
whatever trains. What the modules save is small beside that; what is saved in all is what ``bitfit`` saves, and theirs.

As in the authors' code: pooling by two, the modules' order and groups, the zero, all biases. Differences from it:
kernels of 3 rows and columns (5 there); r times fewer channels within; LayerNorms in the place of group norms; each
patch's nearest token is laid in its place (bilinear there); the modules' last biases train (they are frozen there);
modules begin at random (there trained on ImageNet), and frozen weights stay in the model's number format (8 bits
there).

Saved: what ``bitfit`` does, and of each block x/4 for the convolution and x/4 for the last norm, and x/(2r) between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.lite import Lite, check_sizes, module, pooled, side_of
from bsr_explorer.methods.side import Writer, in_blocks
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn


LITE = "lite_residual"
"""The name of its modules."""


@dataclass(frozen=True, eq=False, repr=False)
class TinyTL(Lite):
    """The modules, all biases and the head train."""

    name: ClassVar[str] = "tinytl"
    summary: ClassVar[str] = "lite residual modules beside the blocks and all biases train, and the head"
    citation: ClassVar[str] = (
        "Cai et al., TinyTL: Reduce Memory, Not Parameters for Efficient On-Device Learning, NeurIPS 2020 (arXiv "
        "2007.11622)"
    )
    module: ClassVar[str] = LITE

    def brings(self, parameter: str) -> bool:
        """Whether it stands in one of its modules."""
        return super().is_own(parameter)

    def is_own(self, parameter: str) -> bool:
        """Whether it stands in one of its modules, or is a bias."""
        return self.brings(parameter) or parameter.endswith(".bias")

    def rewrite(self, tape: Tape) -> Tape:
        """Beside each block, a module, whose tokens are added to what leaves the block.

        Raises:
            UserError: r or the groups do not divide the width, there is one patch, or the blocks cannot be read.
        """
        self.check_architecture(tape)
        behind = dict[str, Writer]()
        for block, entering, leaving in in_blocks(tape):
            here, width, grid = (
                f"{tape.naming.path(block)}.{LITE}",
                tape.tensors[entering].shape[-1],
                side_of(tape, entering),
            )
            check_sizes(self, width, grid, self.r, self.groups)
            side = behind[leaving] = Writer(block, LITE, instead=True)
            x = module(side, here, pooled(side, here, entering, tape), width, grid, self.r, self.groups)
            x = side.op(here, "spread_patches", (x,), {}, side=grid, prefix=tape.prefix_tokens)
            side.op(here, "add", (leaving, x), {})
        return self.with_side(tape, behind)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.tinytl import add_lite_residuals

        add_lite_residuals(model, self.r, self.groups)
        return self.train_own_in(model)
