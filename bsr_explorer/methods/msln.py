"""MS-LN: a LayerNorm and the linear layer that reads it share one saved tensor.

A LayerNorm's gradient needs its input as it is normalised, z, and its inverse deviation; the next layer's weight needs
z ⊙ γ + β, which is computed again from z in the backward pass. Otherwise both keep a tensor of their own. Nothing is
approximated: the forward pass is as it was, and gradients are those of the plain model to rounding. A norm whose layer
keeps nothing (it is frozen, and no update of low rank stands beside it) is left as it is.

The authors move γ and β into the next layer's weight, W ⊙ γ and b + W·β, so that what that layer reads is z itself. It
computes the same, but is trained in other coordinates where W or γ trains. Here W, γ and β stay what they are, for one
product and one sum more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

from bsr_explorer.errors import UserError
from bsr_explorer.methods.base import LINEAR_INPUTS
from bsr_explorer.methods.storing import Storing
from bsr_explorer.naming import blocks_of
from bsr_explorer.storages import Itself, Packing, Rebuilt
from bsr_explorer.tape import Op, Tape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class Msln(Storing):
    """The norms of every block share what they keep with qkv and fc1."""

    name: ClassVar[str] = "msln"
    summary: ClassVar[str] = "norms and the linear layers that read them share one saved tensor"
    citation: ClassVar[str] = (
        "Yang et al., Reducing Fine-Tuning Memory Overhead by Approximate and Memory-Sharing Backpropagation, ICML "
        "2024 (arXiv 2406.16282)"
    )
    chooses: ClassVar[tuple[str, ...]] = (LINEAR_INPUTS,)

    def stores(self, place: str, heads: int, channels: int) -> Packing | Rebuilt | None:
        """See ``Storing``."""
        again = Rebuilt(Itself()) if place in ("normed", "beside") else None
        return Itself() if place == "normalized" else again

    def rewrite(self, tape: Tape) -> Tape:
        """See ``Storing``.

        Raises:
            UserError: no layer that reads a norm keeps what it reads.
        """
        made = super().rewrite(tape)
        by_norms = {op.writes for op in tape if op.kind == "layer_norm" and op.block is not None}
        self._check_something_is_shared(any(_keeps(tape, op) and op.reads[0] in by_norms for op in tape))
        return made

    def rewrite_blocks(self, tape: Tape, live: bool = False) -> Tape:
        """See ``Storing``."""
        made = super().rewrite_blocks(tape, live)
        shared = {op.reads[0] for op in made if _again(op) and _keeps(made, op)}
        ops = []
        for op in made:
            stored = dict(op.stored)
            if op.kind == "layer_norm" and op.writes not in shared:
                stored.pop(f"{op.name}:normalized", None)
            elif _again(op) and not _keeps(made, op):
                del stored[op.reads[0]]
            ops.append(op if stored == op.stored else replace(op, stored=stored))
        return replace(made, ops=tuple(ops))

    def apply(self, model: nn.Module) -> nn.Module:
        """See ``Storing``."""
        from bsr_explorer.storages.layers import share_normalized

        found = [(norm, readers) for norm, readers in _readers(model) if readers]
        self._check_something_is_shared(bool(found))
        for norm, readers in found:
            share_normalized(norm, readers)
        return model

    def _check_something_is_shared(self, there: bool) -> None:
        if not there:
            raise UserError(
                f"--method: {self} has nothing to share: no weight of qkv or fc1 in a block trains, nor an update "
                "beside them, and a frozen layer keeps nothing; leave it out, or let such a weight train"
            )


def _again(op: Op) -> bool:
    """Whether it computes again what it reads."""
    return op.kind == "linear" and isinstance(op.stored.get(op.reads[0]), Rebuilt)


def _keeps(tape: Tape, op: Op) -> bool:
    """Whether it is a linear layer that keeps what it reads."""
    return op.kind == "linear" and tape.parameters[op.params["weight"]].trains


def _readers(model: nn.Module) -> Iterator[tuple[nn.LayerNorm, list[nn.Linear]]]:
    """Each norm of a block, with the linear layers that keep what they read of it."""
    from torch import nn

    from bsr_explorer.methods.lora import DOWN

    for block in blocks_of(model):
        for norm, reader in (("norm1", "attn.qkv"), ("norm2", "mlp.fc1")):
            layer = block.get_submodule(reader)
            layers = [layer, getattr(layer, DOWN, None)]
            yield (
                cast("nn.LayerNorm", block.get_submodule(norm)),
                [each for each in layers if isinstance(each, nn.Linear) and each.weight.requires_grad],
            )
