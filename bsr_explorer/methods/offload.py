"""Offloading: tensors that blocks keep for backward move to the host or to a file, and come back.

From a CUDA device to the host's memory, as torch's ``save_on_cpu`` does; from the host to a temporary file
(paging, as in POET, arXiv 2207.07697). Unlike ``save_on_cpu``, weights stay where they are. The file lies in
the folder for temporary files, which must not itself be a disk in memory (``TMPDIR`` names another).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.devices import Device
from bsr_explorer.methods.subset import OfBlocks
from bsr_explorer.naming import blocks_of
from bsr_explorer.storages import Rebuilt
from bsr_explorer.storages.storage import Factors
from bsr_explorer.tape import DENSE, EVERYTHING, Course, Op, Shape, Storage, Tape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Elsewhere:
    """Stored in another memory.

    Attributes:
        how: as what it lies there, and comes back.
    """

    how: Storage = DENSE

    @property
    def packs(self) -> bool:
        """Whether it is packed before it goes."""
        return self.how.packs

    @property
    def itself(self) -> bool:
        """It is not here."""
        return False

    @property
    def copies(self) -> bool:
        """Whether it is copied before it goes."""
        return self.how.copies

    @property
    def again(self) -> bool:
        """Whether it is not stored there either."""
        return self.how.again

    def cast_from(self, dtype: str) -> Storage:
        """As it lies there."""
        return Elsewhere(self.how.cast_from(dtype))

    def fitting(self, shape: Shape) -> Storage:
        """As it lies there."""
        return Elsewhere(self.how.fitting(shape))

    def pieces(self, shape: Shape, dtype: str) -> tuple[int, ...]:
        """None."""
        return ()

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """That of packing it."""
        return self.how.pack_scratch(shape, dtype, device)

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """That of unpacking it."""
        return self.how.unpack_scratch(shape, dtype, device)

    def pack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """That of packing it."""
        return self.how.pack_course(shape, dtype, device)

    def unpack_course(self, shape: Shape, dtype: str, device: Device) -> Course:
        """That of unpacking it."""
        return self.how.unpack_course(shape, dtype, device)

    def passing(self, shape: Shape, dtype: str) -> int:
        """What goes is here until then, and comes back to be unpacked (or what it is computed again from)."""
        how = self.how
        return (how.source if isinstance(how, Rebuilt) else how).bytes(shape, dtype)

    def pack_flops(self, shape: Shape) -> int:
        """Those of packing it."""
        return self.how.pack_flops(shape)

    @property
    def factors(self) -> Factors | None:
        """As what comes back."""
        return self.how.factors

    def bytes(self, shape: Shape, dtype: str) -> int:
        """None here, whatever its size."""
        return 0


@dataclass(frozen=True, eq=False, repr=False)
class Offload(OfBlocks):
    """Of a block that is checkpointed too, only its input is kept, and goes elsewhere.

    Attributes:
        blocks: 0-based indices of the blocks whose saved tensors go, or None: all of them.
    """

    name: ClassVar[str] = "offload"
    summary: ClassVar[str] = "saved tensors of blocks go to the host (from CUDA) or to a file (from the host)"
    citation: ClassVar[str] = "torch.autograd.graph.save_on_cpu; POET (arXiv 2207.07697)"
    stage: ClassVar[int] = 3

    def rewrite(self, tape: Tape) -> Tape:
        """Whatever the chosen blocks keep is stored elsewhere, but not what runs beside them."""
        chosen = self.chosen(len(tape.blocks))
        ops = (
            replace(op, stored={EVERYTHING: Elsewhere(), **_elsewhere(op)})
            if op.block in chosen and not op.part
            else op
            for op in tape
        )
        return replace(tape, ops=tuple(ops))

    def apply(self, model: nn.Module) -> nn.Module:
        """Each chosen block's forward pass runs under hooks on what it saves."""
        from bsr_explorer.methods.applied.offload import offload_block

        for block in self.chosen(len(blocks_of(model))):
            offload_block(model, block)
        return model


def _elsewhere(op: Op) -> dict[str, Storage]:
    """What an operation packs goes elsewhere packed (but not within a segment that runs again: there, what the
    segment is fed with goes, and what it packs when it runs again does not)."""
    return {name: how if op.segment else Elsewhere(how) for name, how in op.stored.items()}
