"""Gradient checkpointing: blocks keep only their inputs, and run again in the backward pass.

Chen et al., Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174), as torch's
``torch.utils.checkpoint`` does it (non-reentrant, with early stop: a block runs again only until all that
its backward needs is there).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.subset import OfBlocks
from bsr_explorer.naming import blocks_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint(OfBlocks):
    """Each chosen block is a segment of its own. Blocks of which nothing is kept are left alone.

    Attributes:
        blocks: 0-based indices of the blocks that run again, or None: all of them.
    """

    name: ClassVar[str] = "checkpoint"
    summary: ClassVar[str] = "blocks keep their input only, and run again in backward"
    citation: ClassVar[str] = "Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174)"
    stage: ClassVar[int] = 2

    def rewrite(self, tape: Tape) -> Tape:
        """Each chosen block becomes a segment; what runs beside it stays as it is.

        Raises:
            UserError: blocks pack what their calls keep (``methods.storing_calls``).
        """
        chosen = self.chosen(len(tape.blocks))
        if any(op.kind == "call" and op.packs for op in tape):
            raise UserError(
                f"--method: {self} runs blocks again, and what the calls of a traced model pack is unpacked more than "
                "once; leave one of the two out"
            )
        ops = (
            replace(op, segment=tape.naming.path(op.block)) if op.block in chosen and not op.part else op
            for op in tape
        )
        return replace(tape, ops=tuple(ops))

    def apply(self, model: nn.Module) -> nn.Module:
        """Each chosen block's forward pass goes through torch's checkpoint."""
        from bsr_explorer.methods.applied.checkpoint import checkpoint_block

        for block in self.chosen(len(blocks_of(model))):
            checkpoint_block(model, block)
        return model
