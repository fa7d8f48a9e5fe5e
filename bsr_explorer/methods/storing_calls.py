"""How methods that pack store what the calls of a traced model keep.

Which tensor has which place is said by ``storages.by_call``. What is packed is a whole storage, in the shape in which
it was made, as the first call that may keep it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

from bsr_explorer.errors import UserError
from bsr_explorer.naming import blocks_of, naming_of
from bsr_explorer.storages import Packing, Rebuilt
from bsr_explorer.storages.by_call import CALLS, place_of
from bsr_explorer.storages.by_image import by_image
from bsr_explorer.tape import CALLED, DENSE, Argument, AtOnce, Observer, Op, Shape, Storage, Tape, Tensor

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.methods.storing import Storing


@dataclass(frozen=True)
class ByCall(AtOnce):
    """How a method stores what has a place in a block; in which groups follows from the shape.

    Attributes:
        heads: of the block's attention; 0: it has none.
        images: of a batch: what has several rows for each (windows, heads) is packed by image.
    """

    method: Storing
    block: int
    place: str
    heads: int
    images: int

    packs: ClassVar[bool] = True

    def fitting(self, shape: Shape) -> Storage:
        """See ``Storage``."""
        return self.packing(shape) or DENSE

    def packing(self, shape: Shape) -> Packing | None:
        """How a tensor of a shape is packed; None: it is kept as it is. (What is computed again where blocks are known
        layer by layer is packed here.)"""
        channels = 1 if self.place == "softmax" else shape[-1]
        for place in ("residual", "normalized") if self.place == "residual" else (self.place,):
            how = self.method.stores_at(self.block, "", place, self.heads or 1, channels)
            if how is not None:
                packing = (how.source if isinstance(how, Rebuilt) else how).fitting(shape)
                self._check_it_remembers_nothing(packing)
                return by_image(packing, shape, self.images)
        return None

    def _check_it_remembers_nothing(self, packing: Packing) -> None:
        if packing.remembers:
            raise UserError(
                f"--method: {self.method} remembers ranges from step to step, for which the calls of a traced model "
                "have no place; let each step have its own, with ema=0"
            )

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Storage``."""
        return self.fitting(shape).bytes(shape, dtype)


def stored_calls(method: Storing, tape: Tape) -> Tape:
    """Say of each call in a block how it stores what it keeps."""
    tensors, needs = tape.tensors, tape.needs_grad()
    lies = {op.writes: _lies(_call(op), needs) for op in tape if _call(op).kind == "call"}
    first: dict[str, ByCall] = {}
    ops = []
    for op in tape:
        call = _call(op)
        if op.block is None or call.kind != "call" or call.attrs["changes"]:
            ops.append(op)
            continue
        stored, laid = {}, {}
        for name, place in _may_keep(call, tensors):
            whole = tensors[tensors[name].storage]
            place = place_of(place, tensors[name].numel, whole.numel)
            how = first.setdefault(whole.name, _how(method, tape, op.block, place))
            shape = lies.get(whole.name, whole.shape)
            if shape is not None and how.packing(shape) is not None:
                stored[name], laid[name] = how, shape
        packed = replace(
            call, stored={**op.stored, **stored}, attrs={**call.attrs, "laid": laid}, segment=op.segment
        )
        ops.append(packed if stored else op)
    return replace(tape, ops=tuple(ops))


def _lies(call: Op, needs: Mapping[str, bool]) -> Shape | None:
    """How what a call writes lies in memory. Which kernel attention is given, and so how its result lies, depends on
    what needs a gradient (a mask that is made of a parameter)."""
    if call.attrs["function"] != "scaled_dot_product_attention":
        return cast("Shape | None", call.attrs["lies"])
    names = (call.reads[int(which)] if kind == "read" else "" for kind, which in call.attrs["arguments"])
    observer: Observer = call.attrs["observer"]
    return observer.facts(tuple(needs.get(name, False) for name in names)).laid


def _call(op: Op) -> Op:
    """The operation as the call that it is, wherever it is one."""
    return cast(Op, op.attrs.get(CALLED, op))


def _how(method: Storing, tape: Tape, block: int, place: str) -> ByCall:
    heads, images = tape.naming.heads, tape.inputs[0].shape[0]
    return ByCall(method, block, place, heads[block] if heads else 0, images)


def _may_keep(call: Op, tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(tensor, place) of what a call reads, and of what it writes, and may pack."""
    arguments: tuple[Argument, ...] = call.attrs["arguments"]
    keeping = CALLS.get(call.attrs["function"])
    for number, place in keeping.arguments.items() if keeping is not None else ():
        kind, which = arguments[number] if number < len(arguments) else ("", "")
        if kind != "read":
            continue
        tensor = tensors[call.reads[int(which)]]
        whole = tensors.get(tensor.storage)  # None: a view of a parameter
        if whole is not None and whole.role == "activation":
            yield tensor.name, place
    if keeping is not None and keeping.made:
        yield call.writes, keeping.made


def check_calls(method: Storing, tape: Tape) -> None:
    """That a method can pack what calls keep, and these are all that blocks do.

    Raises:
        UserError: it cannot.
    """
    if not (method.by_call and tape.traced):
        raise UserError(
            f"--method: {method} packs what blocks of timm's vision transformers keep, and models of the architecture "
            f"{tape.architecture} cannot; leave it out, or choose checkpoint"
        )
    if tape.device != "cpu":
        raise UserError(
            f"--method: {method} packs what the calls of a traced model keep, of which no prediction is made for a "
            "GPU; choose --device cpu, or leave it out"
        )
    brought = next((op for op in tape if op.block is not None and _call(op).kind != "call"), None)
    if brought is not None:
        raise UserError(
            f"--method: {method} packs what the calls of a traced model keep, and cannot beside what is added to its "
            f"blocks ({brought.name}); leave one of the two out"
        )


def pack_what_calls_keep(method: Storing, model: nn.Module) -> None:
    """Let the calls of a traced model's blocks pack what they keep, in place."""
    from bsr_explorer.storages.calling import pack_calls

    pack_calls(model, _with_shared(model), _Stores(method, naming_of(model).heads))


@dataclass(frozen=True)
class _Stores:
    """How a method stores what has a place; see ``storages.calling.StoresCall``."""

    method: Storing
    heads: tuple[int, ...]

    def __call__(self, block: int, place: str, shape: Shape, images: int) -> Packing | None:
        heads = self.heads[block] if self.heads else 0
        return ByCall(self.method, block, place, heads, images).packing(shape)


def _with_shared(model: nn.Module) -> Iterator[tuple[int | None, nn.Module]]:
    """Blocks, and modules within them that have their name elsewhere, for several blocks share them."""
    naming, paths = naming_of(model), {id(module): path for path, module in model.named_modules()}
    shared: dict[int, tuple[int | None, nn.Module]] = {}
    for number, block in enumerate(blocks_of(model)):
        yield number, block
        for module in block.modules():
            if (owner := naming.block_of(paths[id(module)])) != number:
                shared[id(module)] = owner, module
    yield from shared.values()
