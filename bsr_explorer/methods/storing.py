"""Methods that change how the tensors that blocks keep for backward are stored.

Which tensors a block keeps, by their place in it:

===========  ==========================================  ===============================================
place        tensor                                      kept by
===========  ==========================================  ===============================================
residual     the residual stream, a LayerNorm's input    the norm
normalized   the same with mean 0 and deviation 1        the norm, instead of it, if this is said
normed       a LayerNorm's output                        qkv, fc1
beside       the same                                    an update of low rank beside these
qkv          queries, keys and values                    attention; a token drop shares it
softmax      the attention matrix                        attention with an explicit softmax
attended     attention's output                          the output projection
hidden       the MLP's hidden layer                      GELU
activated    GELU's output                               fc2
gated        a gated MLP's product                       fc2
branch       a branch's output                           LayerScale
===========  ==========================================  ===============================================

An operation keeps its tensor only where its gradient needs it (a frozen linear layer keeps none). What stands
outside the blocks (patch embedding, final norm, head) is left as it is, and so are a norm's mean and inverse
deviation, the tokens that a drop fuses, and the halves that a gated MLP multiplies. What an update reads is left as it
is, too, unless it is computed again from what the norm keeps. Fused attention keeps nothing but qkv: its backward
computes the output and the log-sum-exp again, from what was unpacked.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

from bsr_explorer.errors import UserError
from bsr_explorer.methods.base import ACTIVATION_INPUTS, LINEAR_INPUTS, STORAGE, Method
from bsr_explorer.methods.lora import DOWN
from bsr_explorer.methods.storing_calls import check_calls, pack_what_calls_keep, stored_calls
from bsr_explorer.models.architecture import ARCHITECTURES, architecture_of_model
from bsr_explorer.naming import TIMM, naming_of
from bsr_explorer.storages import Packing, Rebuilt
from bsr_explorer.tape import Op, Parameter, Storage, Tape

if TYPE_CHECKING:
    from torch import nn

PLACES = (
    "residual",
    "normalized",
    "normed",
    "beside",
    "qkv",
    "softmax",
    "attended",
    "hidden",
    "activated",
    "gated",
    "branch",
)


@dataclass(frozen=True, eq=False, repr=False)
class Storing(Method):
    """A method that says, place by place, how a block's tensors are stored."""

    by_call: ClassVar[bool] = False
    """Whether it packs tensors as they are, so that any call that keeps one may (``methods.storing_calls``)."""

    stage: ClassVar[int] = 1
    chooses: ClassVar[tuple[str, ...]] = (STORAGE, LINEAR_INPUTS, ACTIVATION_INPUTS)

    @abstractmethod
    def stores(self, place: str, heads: int, channels: int) -> Packing | Rebuilt | None:
        """How a tensor is stored; None: as it is.

        Args:
            place: one of ``PLACES``.
            heads: of the block's attention.
            channels: the tensor's last dimension (of a softmax: 1).
        """

    def stores_in(self, layer: str, place: str, heads: int, channels: int) -> Packing | Rebuilt | None:
        """``stores``, for a method that also tells layers apart which have the same place.

        Args:
            layer: path of the layer that keeps the tensor, within its block (``mlp.fc1``).
        """
        return self.stores(place, heads, channels)

    def stores_at(
        self, block: int, layer: str, place: str, heads: int, channels: int
    ) -> Packing | Rebuilt | None:
        """``stores_in``, for a method that also tells blocks (0-based) apart; it is not ``by_block`` then."""
        return self.stores_in(layer, place, heads, channels)

    @property
    def at_inference(self) -> Method | None:
        """Nothing: it is exact in forward."""
        return None

    @property
    def explicit_softmax(self) -> bool:
        """Whether attention runs with an explicit softmax, whatever the configuration says."""
        return False

    def rewrite(self, tape: Tape) -> Tape:
        """Say of each operation in a block how it stores what it keeps.

        Raises:
            UserError: blocks of this architecture cannot pack what they keep, they keep nothing, or a kernel cannot.
        """
        needs = tape.needs_grad()
        if not ARCHITECTURES[tape.architecture].packs:
            check_calls(self, tape)
        self._check_something_is_kept(any(needs[op.writes] for op in tape.backbone if op.block is not None))
        return (
            self.rewrite_blocks(tape) if ARCHITECTURES[tape.architecture].packs else stored_calls(self, tape)
        )

    @property
    def by_block(self) -> bool:
        """``stores`` sees no other block."""
        return True

    def rewrite_blocks(self, tape: Tape, live: bool = False) -> Tape:
        """See ``Method``."""
        needs = tape.needs_grad(live)
        attention = next(op for op in tape if op.kind == "attention")
        heads = attention.attrs["heads"]
        fused = attention.attrs["path"] != "math" and not self.explicit_softmax
        if fused and attention.attrs["path"] == "cudnn":
            raise UserError(
                f"--attention: {self} cannot run cudnn's kernel; choose fused, flash, efficient or math"
            )
        made_by = {op.writes: op for op in tape}
        ops, buffers = [], dict(tape.buffers)
        for op in tape:
            stored: dict[str, Storage] = {}
            for tensor, layer, place in _places(op, made_by, fused) if op.block is not None else ():
                channels = 1 if place == "softmax" else tape.tensors[op.reads[0]].shape[-1]
                how = self.stores_at(cast(int, op.block), layer, place, heads, channels)
                again = isinstance(how, Rebuilt)
                if how is None or (again and not needs[op.reads[0]]) or (place == "beside" and not again):
                    continue
                stored[tensor] = how
                if op.kind != "class_attention":  # which shares what attention keeps
                    buffers.update(remembered(tape, op, place, how, needs))
            if op.kind in ("attention", "class_attention") and not fused:
                op = replace(op, attrs={**op.attrs, "path": "math"})
            ops.append(replace(op, stored={**op.stored, **stored}))
        return replace(tape, ops=tuple(ops), buffers=buffers)

    def apply(self, model: nn.Module) -> nn.Module:
        """Let the operations of every block run through functions that pack what they keep."""
        from bsr_explorer.storages.store import store_kept

        naming = naming_of(model)
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        self._check_something_is_kept(
            not all(naming.is_head(name) or naming.is_final_norm(name) for name in trained)
        )
        if architecture_of_model(model).packs:
            store_kept(model, self.stores_at, self.explicit_softmax)
        else:
            pack_what_calls_keep(self, model)
        return model

    def _check_something_is_kept(self, kept: bool) -> None:
        if not kept:
            raise UserError(
                f"--method: {self} has nothing to store: nothing in a block trains, so that the blocks keep nothing; "
                "leave it out, or let a block train"
            )


def _places(op: Op, made_by: Mapping[str, Op], fused: bool) -> Iterator[tuple[str, str, str]]:
    """(tensor, layer, place) of what an operation of a block may keep. What a method adds to a block has no place: it
    is kept as it is."""
    layer = TIMM.in_block(op.name)
    if op.kind == "layer_norm" and layer in ("norm1", "norm2"):
        yield op.reads[0], layer, "residual"
        yield f"{op.name}:normalized", layer, "normalized"
    elif op.kind == "linear" and layer in READS:
        yield op.reads[0], layer, "gated" if made_by[op.reads[0]].kind == "gate_half" else READS[layer]
    elif op.kind == "linear" and layer in _BESIDE:
        yield op.reads[0], layer, "beside"
    elif op.kind == "attention" and layer == "attn":
        yield op.reads[0], layer, "qkv"
        if not fused:
            yield f"{op.name}:softmax", layer, "softmax"
    elif op.kind == "class_attention" and not op.attrs["detached"]:  # shares what attention keeps
        yield op.reads[0], "attn", "qkv"
    elif op.kind == "gelu" and layer == "mlp.act":
        yield op.reads[0], layer, "hidden"
    elif op.kind == "scale" and layer in ("ls1", "ls2"):
        yield op.reads[0], layer, "branch"


def remembered(
    tape: Tape, op: Op, place: str, how: Packing | Rebuilt, needs: Mapping[str, bool]
) -> dict[str, Parameter]:
    """The buffer of what an operation remembers from step to step of what it packs, if it does."""
    if not (isinstance(how, Packing) and how.remembers):
        return {}
    name, form = f"{op.name}.kept_{place}.running", how.remembers
    if op.kind != "linear" or weight_trains(tape, op, needs):
        form = how.remembers_of(tape.tensors[op.reads[0]].shape)
    return {name: Parameter(name, form, op.block, trains=False)}


def weight_trains(tape: Tape, op: Op, needs: Mapping[str, bool]) -> bool:
    """Whether a linear layer's weight does, or what it was made of: a layer whose weight is frozen packs nothing."""
    weight = op.params["weight"]
    return tape.parameters[weight].trains if weight in tape.parameters else needs[weight]


READS = {"attn.qkv": "normed", "attn.proj": "attended", "mlp.fc1": "normed", "mlp.fc2": "activated"}
"""The place of what each linear layer of a block reads."""

_BESIDE = (f"attn.qkv.{DOWN}", f"mlp.fc1.{DOWN}")
"""Updates of low rank that read a norm's output."""
