"""Rep-Net: a small network of lite residual modules beside the frozen blocks.

Behind each block, with b what leaves it and y what the network has made so far (nothing at first),

    y ← y + m(pool(b) + y),

where pool takes means of two by two patches, and m is a module of ``methods.lite``. Behind the last block, the mean of
y over its grid is added to the features that the head reads. The last norm of each module starts at zero, so that
training begins with the linear probe's features. No gradient passes through a block.

As the authors' code has it: pooling by two, the modules' order and groups, modules that read the backbone's features,
the zero. Differences from it:

* the authors add what a module makes to the backbone, too, at each exchange: gradients then pass through the frozen
  blocks above. Of a transformer's block they would take (6 + m)·x whatever trains, so that the way back is the last one
  here, before the head;
* a module stands behind every block, and not where a network halves its grid (a transformer has none of that);
* kernels of 3 rows and columns, as theirs on the smallest grids; r times fewer channels within;
* LayerNorms in the place of batch norms;
* the first module reads what leaves the first block, and not a small image.

Saved: of each block x/4 for the convolution and x/4 for the last norm, and x/(2r) between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.adding import BEFORE_HEAD
from bsr_explorer.methods.lite import Lite, check_sizes, module, pooled, side_of
from bsr_explorer.methods.side import Writer, features, in_blocks
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn


REPROGRAM = "repnet"
"""The name of its modules."""


@dataclass(frozen=True, eq=False, repr=False)
class RepNet(Lite):
    """The modules, and the head, train."""

    name: ClassVar[str] = "repnet"
    summary: ClassVar[str] = "a network of lite residual modules beside the blocks trains, and the head"
    citation: ClassVar[str] = (
        "Yang et al., Rep-Net: Efficient On-Device Learning via Feature Reprogramming, CVPR 2022"
    )
    module: ClassVar[str] = REPROGRAM

    def rewrite(self, tape: Tape) -> Tape:
        """Behind each block, a module; before the head, what they made is added.

        Raises:
            UserError: r or the groups do not divide the width, there is one patch, or the blocks cannot be read.
        """
        self.check_architecture(tape)
        behind, y = dict[str, Writer](), ""
        for block, _, leaving in in_blocks(tape):
            here, width, grid = (
                f"{tape.naming.path(block)}.{REPROGRAM}",
                tape.tensors[leaving].shape[-1],
                side_of(tape, leaving),
            )
            check_sizes(self, width, grid, self.r, self.groups)
            side = behind[leaving] = Writer(block, REPROGRAM)
            x = pooled(side, here, leaving, tape)
            x = module(
                side, here, side.op(here, "add", (x, y), {}) if y else x, width, grid, self.r, self.groups
            )
            y = side.op(here, "add", (y, x), {}) if y else x
        joined = features(tape)
        top = behind[joined] = Writer(None, REPROGRAM, instead=True)
        x = top.op(f"{BEFORE_HEAD}.{REPROGRAM}", "mean_tokens", (y,), {}, prefix=0)
        top.op(BEFORE_HEAD, "add", (joined, x), {})
        return self.with_side(tape, behind)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.repnet import add_reprogramming

        add_reprogramming(model, self.r, self.groups)
        return self.train_own_in(model)
