"""The life of storages while a call and its backward run, and the ends of the graph between which they do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch._subclasses import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from bsr_explorer.counting import NoFormula, flops_of
from bsr_explorer.models.traced.calls import DTYPES, Spec, mapped
from bsr_explorer.models.traced.making import FAKE
from bsr_explorer.operations.call import Happening, Holds
from bsr_explorer.storages.by_call import NOTHING, Packs, laid_out
from bsr_explorer.storages.calling import laid


class _Event(NamedTuple):
    """Something came (``take``), or went (``drop``, ``let_go``, ``gone``); or a gradient was passed (``pass``). Of what
    is packed (``pack``, ``restore``, ``forget``), the number is the address of what stands for it."""

    what: str
    number: int
    bytes: int = 0
    source: int = 0


class _Packed(NamedTuple):
    """What a call keeps packed.

    Attributes:
        address: of the storage.
        spec: of the tensor of it that is read in backward.
        stand: stands for what it is packed in, and lives as long.
        copy_of: see ``Holds``.
    """

    address: int
    spec: Spec
    stand: torch.Tensor
    copy_of: int | None

    @property
    def standing(self) -> int:
        """The address of what stands for it."""
        return int(self.stand.untyped_storage()._cdata)


def _keeps_number(func: Any, args: Any) -> bool:
    """Whether autograd keeps a Python number that a tensor is multiplied with, or divided by, as a tensor."""
    by_number = len(args) > 1 and isinstance(args[1], (int, float))
    return bool(
        by_number
        and func in (torch.ops.aten.mul.Tensor, torch.ops.aten.div.Tensor)
        and args[0].requires_grad
        and torch.is_grad_enabled()
    )


def _made_aside(func: Any, args: Any) -> int:
    """Bytes of what an operation makes, and lets go of, beside its results: of a convolution whose bias trains and its
    weight does not, oneDNN makes both gradients (``mkldnn_convolution_backward``)."""
    if func is not torch.ops.aten.convolution_backward.default or args[0].device.type != "cpu":
        return 0
    _, x, weight, biases, stride, padding, dilation, transposed, beside, groups, wanted = args
    if wanted[1] or not wanted[2]:
        return 0
    how = (stride, padding, dilation, transposed, beside, groups, biases)
    backend = torch._C._select_conv_backend(x, weight, None, *how)
    return int(weight.numel() * weight.itemsize) if "Mkldnn" in str(backend) else 0


class Watch(TorchDispatchMode):
    """Follows which storages come into being and go, in order, while a call and its backward run.

    A storage is known by its address, and by a weak reference, as long as which lives no other has that address.

    Args:
        bounds: whether an operation whose FLOPs nobody counts is noted, and not an error.

    Attributes:
        flops: of all operations that have run.
        numbers: how many Python numbers autograd keeps as tensors.
        early: what had happened to memory, and FLOPs, when the last thing was kept.
        uncounted: names of operations whose FLOPs nobody counts.
    """

    def __init__(self, bounds: bool = False) -> None:
        super().__init__()
        self._bounds = bounds
        self._known: dict[int, StorageWeakRef] = {}
        self._alive: dict[int, tuple[str, int]] = {}  # by address, what is said when it goes, and its number
        self._numbers: dict[int, int] = {}
        self._events: list[_Event] = []
        self._given: dict[int, int] = {}
        self._made: dict[int, int] = {}
        self._saved: dict[int, int] = {}
        self._passing: list[int] = []
        self._arrived: dict[int, int] = {}
        self._gradients: dict[int, int] = {}
        self._held: list[torch.Tensor] = []
        self._away = False
        self._packed: dict[int, _Packed] = {}  # by address of the storage
        self._standing: dict[
            int, tuple[int, Spec, int | None]
        ] = {}  # of what stands for it: whose, how, copy of
        self._restored: dict[int, StorageWeakRef] = {}
        self._places: dict[int, int] = {}
        self.flops = self.numbers = 0
        self.early = (0, 0)
        self.uncounted: dict[str, None] = {}

    def given(self, tensors: Sequence[torch.Tensor]) -> None:
        """What the call is given is there."""
        for place, tensor in enumerate(tensors):
            self._given.setdefault(self._note(tensor), place)

    def _note(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        address = int(storage._cdata)
        self._known.setdefault(address, StorageWeakRef(storage))
        return address

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """What happens within it is no part of the call."""
        self._away = True
        try:
            yield
        finally:
            self._away = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._away:
            return func(*args, **(kwargs or {}))
        self._look()
        result = func(*args, **(kwargs or {}))
        try:
            self.flops += flops_of(func, args, kwargs or {}, result)
        except NoFormula:
            if not self._bounds:
                raise
            self.uncounted[str(func._overloadpacket)] = None
        self.numbers += _keeps_number(func, args)
        if aside := _made_aside(func, args):
            number = self._number(-1 - len(self._numbers))  # no address
            self._events.append(_Event("take", number, aside))
        mapped(result, self._see)
        if aside:
            self._events.append(_Event("drop", number))
        return result

    def _number(self, address: int) -> int:
        self._numbers[address] = len(self._numbers)
        return self._numbers[address]

    def _see(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            new = int(leaf.untyped_storage()._cdata) not in self._known
            address = self._note(leaf)
            if new:
                self._alive[address] = "drop", self._number(address)
                size = int(leaf.untyped_storage().nbytes())
                self._events.append(_Event("take", self._numbers[address], size))
        return None

    def _look(self) -> None:
        """Who has gone since."""
        for address, (what, number) in [*self._alive.items()]:
            if self._known[address].expired():
                del self._alive[address]
                self._events.append(_Event(what, number))

    # --- forward ------------------------------------------------------------------------------------------

    def saving(self, packs: Packs = NOTHING, specs: Sequence[Spec] = ()) -> Any:
        """Within it, what autograd saves is noted.

        Args:
            packs: what is packed.
            specs: of what the call is given.
        """

        def pack(tensor: torch.Tensor) -> torch.Tensor | _Packed:
            address, size = self._note(tensor), int(tensor.untyped_storage().nbytes())
            copy_of = None
            if (place := self._given.get(address)) is not None:
                packed = place in packs.arguments
            else:
                shape, shapes = tuple(tensor.shape), [spec.shape for spec in specs]
                copy_of = packs.copied(shape, shapes)
                packed = copy_of is not None or packs.makes(shape, shapes)
                packed = packed and tensor.is_floating_point() and laid(tensor) is not None
            if packed:
                return self._pack(tensor, address, size, copy_of)
            self._saved.setdefault(address, size)
            self.early = len(self._events), self.flops
            return tensor.detach()

        def unpack(kept: torch.Tensor | _Packed) -> torch.Tensor:
            return kept if isinstance(kept, torch.Tensor) else self._restore(kept)

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)

    def _pack(self, tensor: torch.Tensor, address: int, size: int, copy_of: int | None) -> _Packed:
        spec = Spec.of(tensor)
        if address in self._packed:
            return self._packed[address]._replace(spec=spec)
        with self.looking_away():
            stand = torch.empty(1)
        found = _Packed(address, spec, stand, copy_of)
        self._packed[address] = found
        self._saved[self._note(stand)] = size
        self._standing[found.standing] = address, spec, copy_of
        self._events.append(_Event("pack", found.standing))
        self.early = len(self._events), self.flops
        return found

    def _restore(self, kept: _Packed) -> torch.Tensor:
        """What is packed, brought back: the same as long as somebody holds it."""
        self._look()
        there = self._restored.get(kept.standing)
        storage = None if there is None else torch.UntypedStorage._new_with_weak_ptr(there.cdata)
        if storage is not None:
            with no_dispatch():
                meta = torch.empty(0, dtype=kept.spec.dtype, device="meta").set_(storage)
            whole: torch.Tensor = FakeTensor(FAKE, meta, kept.stand.device)
        else:
            with self.looking_away():
                size = self._saved[kept.standing] // kept.spec.dtype.itemsize
                whole = torch.empty(size, dtype=kept.spec.dtype, device=kept.stand.device)
            address = self._note(whole)
            self._restored[kept.standing] = StorageWeakRef(whole.untyped_storage())
            self._alive[address] = "forget", kept.standing
            self._events.append(_Event("restore", kept.standing))
        with self.looking_away():
            return whole.as_strided(kept.spec.shape, kept.spec.stride)

    def run(self, results: Sequence[torch.Tensor]) -> tuple[Happening, ...]:
        """What happened to memory until the call returned these results."""
        self._look()
        for place, result in enumerate(results):
            self._made.setdefault(self._note(result), place)
        made = {self._numbers[a]: place for a, place in self._made.items() if a in self._numbers}
        self._packed = {}  # so that only autograd holds what stands for what is packed
        self._places = {
            address: place
            for place, address in enumerate(
                address for address in self._saved if not self._known[address].expired()
            )
        }
        found = []
        for event in self._events:
            if event.what == "take" and event.number in made:
                found.append(Happening("make", made[event.number]))
            elif event.what != "pack":
                found.append(Happening(cast(Any, event.what), event.number, event.bytes))
            elif event.number in self._places:
                found.append(Happening("pack", self._places[event.number]))
        return tuple(found)

    def kept(self) -> tuple[Holds, ...]:
        """What is kept, each storage once."""
        found: list[Holds] = []
        self._alive = {}
        for address, size in self._saved.items():
            if self._known[address].expired():
                continue
            self._alive[address] = "let_go", len(found)
            if address in self._standing:
                found.append(self._holds_packed(size, *self._standing[address]))
            elif address in self._given:
                found.append(Holds("argument", self._given[address]))
            elif address in self._made:
                found.append(Holds("result", self._made[address]))
            else:
                found.append(Holds("own", self._numbers[address], size))
        return tuple(found)

    def _holds_packed(self, size: int, address: int, spec: Spec, copy_of: int | None) -> Holds:
        if address in self._given:
            return Holds("argument", self._given[address], packed=True)
        if address in self._made:
            return Holds("result", self._made[address], packed=True)
        form = laid_out(spec.shape, spec.stride) or spec.shape, DTYPES[spec.dtype]
        return Holds("own", self._numbers[address], size, True, *form, copy_of)

    # --- backward -----------------------------------------------------------------------------------------

    def begin_backward(self, carries: Sequence[bool]) -> None:
        """Backward begins, with gradients of the results that carry one."""
        self._events = []
        self._passing = [place for place, carried in enumerate(carries) if carried]

    def arriving(self, gradients: Sequence[torch.Tensor]) -> None:
        """The gradients of the results are there."""
        self._look()
        for gradient, place in zip(gradients, self._passing, strict=True):
            address = self._note(gradient)
            self._arrived[address] = place
            self._alive[address] = "gone", place

    def gradient(self, place: int, gradient: torch.Tensor) -> None:
        """The gradient of an argument has come."""
        self._look()
        address = self._note(gradient)
        if address in self._arrived:
            self._events.append(_Event("pass", place, source=self._arrived[address]))
        elif address in self._numbers:
            self._gradients.setdefault(self._numbers[address], place)
        self._held.append(gradient)

    def unwind(self) -> tuple[Happening, ...]:
        """What happened to memory in backward."""
        self._look()
        found = []
        for event in self._events:
            if event.what in ("take", "drop") and event.number in self._gradients:
                if event.what == "take":
                    found.append(Happening("give", self._gradients[event.number]))
            elif event.what in ("restore", "forget"):
                found.append(Happening(cast(Any, event.what), self._places[event.number]))
            else:
                found.append(Happening(cast(Any, event.what), event.number, event.bytes, event.source))
        return tuple(found)


# --- ends of the graph ------------------------------------------------------------------------------------


class _Source(torch.autograd.Function):
    """A tensor that needs a gradient, and is no leaf: what is changed in place must not be one."""

    @staticmethod
    def forward(ctx: Any, token: torch.Tensor, hold: list[torch.Tensor], watch: Watch, place: int) -> Any:
        ctx.watch, ctx.place = watch, place
        return hold.pop()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.watch.gradient(ctx.place, gradients[0])
        return None, None, None, None


def source(tensor: torch.Tensor, watch: Watch, place: int) -> torch.Tensor:
    """A tensor as one that needs a gradient, whose arrival a watch is told of.

    Args:
        place: its number among what the call is given.
    """
    token = torch.empty((), dtype=tensor.dtype, device=tensor.device, requires_grad=True)
    hold = [tensor]
    del tensor
    made: torch.Tensor = _Source.apply(token, hold, watch, place)
    return made


class Sink(torch.autograd.Function):
    """Where backward begins: gradients of a call's results come into being, and only the engine holds them."""

    @staticmethod
    def forward(ctx: Any, watch: Watch, *results: torch.Tensor) -> Any:
        ctx.watch = watch
        ctx.specs = [Spec.of(result) for result in results]
        ctx.device = results[0].device
        return results[0].new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        with ctx.watch.looking_away():
            made = [torch.empty(spec.shape, dtype=spec.dtype, device=ctx.device) for spec in ctx.specs]
        ctx.watch.arriving(made)
        return None, *made
