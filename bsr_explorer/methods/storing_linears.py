"""Methods that change how chosen linear layers store what they read, and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import LAYERS, checked_layers, linears_in
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.base import LINEAR_INPUTS
from bsr_explorer.methods.storing import Storing
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
        """See ``Storing``.

        Raises:
            UserError: no weight of the chosen layers trains, so that they keep nothing.
        """
        made, naming = super().rewrite(tape), tape.naming
        chosen = [op for op in tape if op.kind == "linear" and naming.in_block(op.name) in self._paths]
        self._check_some_weight_trains(any(tape.parameters[op.params["weight"]].trains for op in chosen))
        return made

    def apply(self, model: nn.Module) -> nn.Module:
        """See ``Storing``."""
        self._check_some_weight_trains(
            any(layer.weight.requires_grad for layer in linears_in(model, self.on))
        )
        return super().apply(model)

    def _check_some_weight_trains(self, trains: bool) -> None:
        if not trains:
            raise UserError(
                f"--method: {self} has nothing to store: no weight of {', '.join(self.on)} in a block trains, and a "
                "frozen layer keeps nothing; leave it out, or let such a weight train"
            )
