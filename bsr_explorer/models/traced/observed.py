"""Making one call, and its backward, with tensors that have shapes and no memory, and seeing what happens.

What autograd keeps, which tensors come into being and go, and the FLOPs are those of the installed torch, not of a
table: torch's own hooks on saved tensors, its FLOP counter, and the life of each storage. Calls that are alike (the
same function, shapes and strides, the same arguments that need a gradient) are made once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch._subclasses import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from bsr_explorer.counting import flops_of
from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.calls import Call, Place, Spec, mapped, quiet
from bsr_explorer.operations.call import Facts, Happening, Holds

_KNOWN: dict[Any, Facts] = {}
_FAKE = FakeTensorMode(allow_non_fake_inputs=True)


@dataclass(frozen=True)
class Observed:
    """A call whose sizes are known, and what it does (see ``operations.call.Observer``).

    Attributes:
        autocast: number format that autocast uses; None: it does not run.
    """

    call: Call
    autocast: torch.dtype | None = None
    device: str = "cpu"
    _mine: dict[tuple[bool, ...], Facts] = field(default_factory=dict, compare=False, repr=False)

    def facts(self, needs: tuple[bool, ...]) -> Facts:
        """See ``Observer``.

        Raises:
            UserError: the call cannot be made alone.
        """
        if needs not in self._mine:
            self._mine[needs] = self._found(needs)
        return self._mine[needs]

    def _found(self, needs: tuple[bool, ...]) -> Facts:
        call = self.call
        needs = tuple(
            need and given.spec.dtype.is_floating_point and not call.detached
            for need, given in zip(needs, call.given, strict=True)
        )
        key = (
            getattr(call.function, "key", call.function),
            repr((call.args, call.kwargs)),
            tuple(given.spec for given in call.given),
            call.changes,
            call.views,
            needs,
            self.autocast,
            self.device,
        )
        if key not in _KNOWN:
            try:
                _KNOWN[key] = observe(call, needs, self.autocast, self.device)
            except UserError:
                raise
            except Exception as error:
                raise self._refusal(
                    f"made alone, it fails: {(str(error).splitlines() or [''])[0][:160]}"
                ) from error
        return _KNOWN[key]

    def _refusal(self, why: str) -> UserError:
        call = self.call
        shapes = ", ".join(str(given.spec.shape) for given in call.given)
        return UserError(
            f"--model: no rule for {call.name} of {shapes} in {call.path or 'the model'}: {why}; freeze what lies "
            "below it, or choose another model"
        )


def observe(call: Call, needs: Sequence[bool], autocast: torch.dtype | None, device: str) -> Facts:
    """Make a call, and its backward where one of its tensors needs a gradient."""
    watch = _Watch()
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(_FAKE)
        tensors = []
        for place, (each, need) in enumerate(zip(call.given, needs, strict=True)):
            tensor = torch.empty_strided(
                each.spec.shape, each.spec.stride, dtype=each.spec.dtype, device=device
            )
            tensors.append(_source(tensor, watch, place) if need else tensor)
            del tensor
        watch.given(tensors)
        if autocast is not None:
            stack.enter_context(torch.autocast(device, autocast))
        if call.detached:
            stack.enter_context(torch.no_grad())
        with watch.saving(), watch:
            results = _results(call, tensors)
        run, forward, numbers = watch.run(results), watch.flops, watch.numbers
        carries = tuple(result.requires_grad for result in results)
        if not any(carries):
            return Facts((), forward, 0, run, (), carries)
        kept = watch.kept()
        start = torch.empty(())
        sink = _Sink.apply(watch, *(result for result in results if result.requires_grad))
        del results, tensors
        watch.begin_backward(carries)
        with watch:
            sink.backward(start)
        unwind = watch.unwind()
    if _norm_in_two_formats(call, device):
        kept, run = _in_32_bits(kept, run)
    late = any(held.what != "argument" for held in kept) or hasattr(call.function, "key")
    return Facts(kept, forward, watch.flops - forward, run, unwind, carries, late, numbers)


def _norm_in_two_formats(call: Call, device: str) -> bool:
    """A batch norm of 16 bits with weights of 32: on the CPU it keeps its statistics in 32 bits, which torch's kernel
    without memory does not say."""
    formats = [given.spec.dtype for given in call.given]
    two = formats[0] in (torch.bfloat16, torch.float16) and torch.float32 in formats[1:]
    return call.name == "batch_norm" and device == "cpu" and two


def _in_32_bits(
    kept: tuple[Holds, ...], run: tuple[Happening, ...]
) -> tuple[tuple[Holds, ...], tuple[Happening, ...]]:
    own = {held.which for held in kept if held.what == "own"}
    return (
        tuple(held._replace(bytes=2 * held.bytes) if held.what == "own" else held for held in kept),
        tuple(e._replace(bytes=2 * e.bytes) if e.what == "take" and e.which in own else e for e in run),
    )


def _results(call: Call, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What it makes, in the order of ``Call.made``."""
    given, tensors = tensors, list(tensors)
    for place, view, offset in call.views:
        tensors[place] = given[place].as_strided(
            view.shape, view.stride, given[place].storage_offset() + offset
        )

    def fill(leaf: Any) -> Any:
        return tensors[leaf.number] if isinstance(leaf, Place) else leaf

    result = call.function(*mapped(call.args, fill), **mapped(call.kwargs, fill))
    found: list[torch.Tensor] = []
    mapped(result, lambda leaf: found.append(leaf) if isinstance(leaf, torch.Tensor) else None)
    there = {id(tensor) for tensor in (*given, *tensors)}
    fresh = [*{id(each): each for each in found if id(each) not in there}.values()]
    of_views = {place for place, _, _ in call.views}
    for place in call.changes:
        fresh += [given[place], tensors[place]] if place in of_views else [tensors[place]]
    return fresh


# --- ends of the graph ------------------------------------------------------------------------------------


class _Source(torch.autograd.Function):
    """A tensor that needs a gradient, and is no leaf: what is changed in place must not be one."""

    @staticmethod
    def forward(ctx: Any, token: torch.Tensor, hold: list[torch.Tensor], watch: _Watch, place: int) -> Any:
        ctx.watch, ctx.place = watch, place
        return hold.pop()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.watch.gradient(ctx.place, gradients[0])
        return None, None, None, None


def _source(tensor: torch.Tensor, watch: _Watch, place: int) -> torch.Tensor:
    token = torch.empty((), dtype=tensor.dtype, device=tensor.device, requires_grad=True)
    hold = [tensor]
    del tensor
    made: torch.Tensor = _Source.apply(token, hold, watch, place)
    return made


class _Sink(torch.autograd.Function):
    """Where backward begins: gradients of a call's results come into being, and only the engine holds them."""

    @staticmethod
    def forward(ctx: Any, watch: _Watch, *results: torch.Tensor) -> Any:
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


# --- the life of storages -----------------------------------------------------------------------------------


class _Event(NamedTuple):
    """Something came (``take``), or went (``drop``, ``let_go``, ``gone``); or a gradient was passed (``pass``)."""

    what: str
    number: int
    bytes: int = 0
    source: int = 0


def _keeps_number(func: Any, args: Any) -> bool:
    """Whether autograd keeps a Python number that a tensor is multiplied with, or divided by, as a tensor."""
    by_number = len(args) > 1 and isinstance(args[1], (int, float))
    return bool(
        by_number
        and func in (torch.ops.aten.mul.Tensor, torch.ops.aten.div.Tensor)
        and args[0].requires_grad
        and torch.is_grad_enabled()
    )


class _Watch(TorchDispatchMode):
    """Follows which storages come into being and go, in order, while a call and its backward run.

    A storage is known by its address, and by a weak reference, as long as which lives no other has that address.
    """

    def __init__(self) -> None:
        super().__init__()
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
        self.flops = self.numbers = 0

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
        self.flops += flops_of(func, args, kwargs or {}, result)
        self.numbers += _keeps_number(func, args)
        mapped(result, self._see)
        return result

    def _see(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            new = int(leaf.untyped_storage()._cdata) not in self._known
            address = self._note(leaf)
            if new:
                self._numbers[address] = len(self._numbers)
                self._alive[address] = "drop", self._numbers[address]
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

    def saving(self) -> Any:
        """Within it, what autograd saves is noted."""

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            self._saved.setdefault(self._note(tensor), int(tensor.untyped_storage().nbytes()))
            return tensor.detach()

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)

    def run(self, results: Sequence[torch.Tensor]) -> tuple[Happening, ...]:
        """What happened to memory until the call returned these results."""
        self._look()
        for place, result in enumerate(results):
            self._made.setdefault(self._note(result), place)
        made = {self._numbers[a]: place for a, place in self._made.items() if a in self._numbers}
        return tuple(
            Happening("make", made[event.number])
            if event.what == "take" and event.number in made
            else Happening(cast(Any, event.what), event.number, event.bytes)
            for event in self._events
        )

    def kept(self) -> tuple[Holds, ...]:
        """What is kept, each storage once."""
        found: list[Holds] = []
        self._alive = {}
        for address, size in self._saved.items():
            if self._known[address].expired():
                continue
            self._alive[address] = "let_go", len(found)
            if address in self._given:
                found.append(Holds("argument", self._given[address]))
            elif address in self._made:
                found.append(Holds("result", self._made[address]))
            else:
                found.append(Holds("own", self._numbers[address], size))
        return tuple(found)

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
            else:
                found.append(Happening(cast(Any, event.what), event.number, event.bytes, event.source))
        return tuple(found)
