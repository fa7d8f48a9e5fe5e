"""Methods that change how chosen linear layers store what they read, and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import LAYERS, checked_layers, linears, linears_in
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.base import LINEAR_INPUTS
from bsr_explorer.methods.storing import READS, Storing, remembered
from bsr_explorer.storages import Packing
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

READ = ("normed", "attended", "activated", "gated")
"""Places of what linear layers read."""


@dataclass(frozen=True, eq=False, repr=False)
class StoringLinears(Storing):
    """A method that says how the inputs of chosen linear layers are stored.

    Attributes:
        on: which layers of all blocks: names of ``adding.LAYERS``.
    """

    on: tuple[str, ...] = quiet(("qkv", "fc2"))

    chooses: ClassVar[tuple[str, ...]] = (LINEAR_INPUTS,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "on", checked_layers(self.name, self.on))

    @abstractmethod
    def packing(self, channels: int) -> Packing:
        """How an input of so many channels is stored.

        Raises:
            UserError: it cannot be.
        """

    def stores(self, place: str, heads: int, channels: int) -> Packing | None:
        """See ``Storing``."""
        return self.packing(channels) if place in READ else None

    def stores_in(self, layer: str, place: str, heads: int, channels: int) -> Packing | None:
        """See ``Storing``: of the chosen layers."""
        return self.stores(place, heads, channels) if layer in self._paths else None

    @property
    def _paths(self) -> list[str]:
        return [LAYERS[name] for name in self.on]

    def rewrite(self, tape: Tape) -> Tape:
        """Say of the chosen linear layers of each block how they store what they read. (Nothing else of a block
        matters, so that any model will do whose blocks have them.)

        Raises:
            UserError: blocks have no such layer, or no weight of them trains, so that they keep nothing.
        """
        chosen = list(linears(self, tape, self.on))
        needs = tape.needs_grad()
        self._check_something_is_kept(any(needs[op.writes] for op in tape.backbone if op.block is not None))
        self._check_some_weight_trains(any(tape.parameters[op.params["weight"]].trains for op in chosen))
        return self.rewrite_blocks(tape)

    def rewrite_blocks(self, tape: Tape, live: bool = False) -> Tape:
        """See ``Method``."""
        needs, made_by = tape.needs_grad(live), {op.writes: op for op in tape}
        ops, buffers = [], dict(tape.buffers)
        for op in tape:
            layer = "" if op.block is None else tape.naming.in_block(op.name)
            how = None
            if op.kind == "linear" and layer in self._paths:
                read = op.reads[0]
                gated = read in made_by and made_by[read].kind == "gate_half"
                place = "gated" if gated else READS[layer]
                how = self.stores_at(cast(int, op.block), layer, place, 0, tape.tensors[read].shape[-1])
            if how is not None:
                buffers.update(remembered(tape, op, place, how, needs))
                op = replace(op, stored={**op.stored, read: how})
            ops.append(op)
        return replace(tape, ops=tuple(ops), buffers=buffers)

    def apply(self, model: nn.Module) -> nn.Module:
        """Let the chosen layers of every block run through functions that pack what they read.

        Raises:
            UserError: see ``rewrite``.
        """
        from bsr_explorer.storages.store import store_read

        self._check_some_weight_trains(
            any(layer.weight.requires_grad for layer in linears_in(model, self.on))
        )
        store_read(model, {path: READS[path] for path in self._paths}, self.stores_at)
        return model

    def _check_some_weight_trains(self, trains: bool) -> None:
        if not trains:
            raise UserError(
                f"--method: {self} has nothing to store: no weight of {', '.join(self.on)} in a block trains, and a "
                "frozen layer keeps nothing; leave it out, or let such a weight train"
            )
