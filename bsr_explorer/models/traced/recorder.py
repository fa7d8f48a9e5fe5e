"""Tracing a forward pass: every call of a function of torch, with shapes and without memory.

The model runs once with tensors that have shapes and no numbers (torch's ``FakeTensorMode``, which decides as the
device would), and each call from Python is noted: what it was given, what it made, and after which call Python let go
of each tensor. Fused attention, a norm or a loss is one call. What is called within a call is seen when the call is
observed (``observed``).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.calls import Call, Given, Made, Place, Spec, mapped, name_of
from bsr_explorer.models.traced.kernels import Kernels

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Recorder(TorchFunctionMode):
    """Notes calls.

    Args:
        own: parameters and buffers of the model, by the identity of the tensors that stand for them.
        inputs: the same of its inputs.
        kernels: of the device, where it is not the CPU.
    """

    def __init__(
        self, own: Mapping[int, tuple[str, str]], inputs: Mapping[int, str], kernels: Kernels | None = None
    ) -> None:
        super().__init__()
        self._kernels = kernels
        self._own = dict(own)
        self._names: dict[int, str] = dict(inputs)
        self._watches: dict[int, weakref.ref[torch.Tensor]] = {}
        self._brought: dict[str, str] = {}  # by name, the name of the tensor that brought its memory
        self._of_own: dict[str, str] = {}  # the same, where a parameter or a buffer has brought it
        self._kept: list[torch.Tensor] = []
        self._busy = False
        self.paths: list[str] = [""]
        self.failed_in = ""
        self.calls: list[Call] = []
        self.constants: dict[str, Spec] = {}
        self.held: dict[str, int] = {}

    # --- what is called -----------------------------------------------------------------------------------

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = NOTHING,
    ) -> Any:
        return self.record(func, args, kwargs or {})

    def record(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Make a call and note it."""
        if self._busy:
            return func(*args, **kwargs)
        self._busy = True
        try:
            return self._recorded(func, args, kwargs)
        finally:
            self._busy = False

    def _recorded(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if (name := _unseen_function()) is not None:
            raise UserError(
                f"--model: {self.paths[-1] or 'the model'} calls a function with a backward of its own by a name that "
                f"hides it, {name}; call it as {name}.apply(...)"
            )
        if self._kernels is not None:
            func = self._kernels.of(func, name_of(func), self.paths[-1])
        tensors: list[torch.Tensor] = []
        collect = _collector(tensors)
        places = mapped(args, collect), mapped(dict(kwargs), collect)
        versions = [_version(tensor) for tensor in tensors]
        given = tuple(self._given(tensor, func) for tensor in tensors)
        result = func(*args, **kwargs)
        changed = tuple(
            number for number, tensor in enumerate(tensors) if _version(tensor) != versions[number]
        )
        self._note(func, places, tensors, given, changed, result)
        return result

    def _note(
        self,
        func: Callable[..., Any],
        places: tuple[Any, Any],
        tensors: list[torch.Tensor],
        given: tuple[Given, ...],
        changed: tuple[int, ...],
        result: Any,
    ) -> None:
        results: list[torch.Tensor] = []
        mapped(result, _collector(results))
        there = {id(tensor) for tensor in tensors}
        fresh = [*{id(each): each for each in results if id(each) not in there}.values()]
        made, memories = list[Made](), [_memory(tensor) for tensor in tensors]
        number = len(self.calls)
        earlier: list[int] = []
        given, views, altered = self._altered(func, tensors, given, changed)
        for each in [*fresh, *altered]:
            name = f"{name_of(func)} {number}" + (f".{len(made)}" if made else "")
            memory = _memory(each)
            shows = memories.index(memory) if memory in memories else None
            like = earlier.index(memory) if shows is None and memory in earlier else None
            made.append(Made(name, Spec.of(each), shows, like))
            earlier.append(memory)
            self._brings(each, name, given, made)
        if not made:
            return
        self.calls.append(
            Call(
                self.paths[-1],
                func,
                places[0],
                places[1],
                given,
                tuple(made),
                changed,
                views,
                not torch.is_grad_enabled(),
            )
        )

    def _altered(
        self, func: Any, tensors: list[torch.Tensor], given: tuple[Given, ...], changed: tuple[int, ...]
    ) -> tuple[tuple[Given, ...], tuple[tuple[int, Spec, int], ...], list[torch.Tensor]]:
        """What a call has changed in place: with a view, what it is a view of, which is given instead."""
        instead, views, altered = list(given), [], list[torch.Tensor]()
        for place in changed:
            tensor = tensors[place]
            base = tensor._base
            known = base is not None and (id(base) in self._names or id(base) in self._own)
            if base is not None and known and id(tensor) not in self._own:  # else torch alone knows the base
                views.append((place, Spec.of(tensor), int(tensor.storage_offset() - base.storage_offset())))
                instead[place] = self._given(base, func)
                altered.append(base)
            altered.append(tensor)
        return tuple(instead), tuple(views), altered

    def _brings(
        self, tensor: torch.Tensor, name: str, given: tuple[Given, ...], made: Sequence[Made]
    ) -> None:
        """Name a result, and watch it as long as it lives."""
        last = made[-1]
        if last.shows is not None:
            source = given[last.shows]
            of = self._brought.get(source.name) if source.kind == "read" else None
        else:
            of = self._brought[made[last.like].name] if last.like is not None else name
        if id(tensor) in self._own:  # a buffer that was changed in place
            return
        if of is not None:
            self._brought[name] = of
        identity = id(tensor)
        self._names[identity] = name

        def gone(_: object) -> None:
            self._names.pop(identity, None)
            self._watches.pop(identity, None)
            if of is not None:
                self.held[of] = len(self.calls) - 1

        self._watches[identity] = weakref.ref(tensor, gone)

    def _given(self, tensor: torch.Tensor, func: Callable[..., Any]) -> Given:
        spec = Spec.of(tensor)
        if (own := self._own.get(id(tensor))) is not None:
            kind, name = own
            return Given("parameter" if kind == "parameter" else "buffer", name, spec)
        if (name := self._names.get(id(tensor), "")) == "":
            if isinstance(tensor, FakeTensor):
                raise UserError(
                    f"--model: {self.paths[-1] or 'the model'} gives {name_of(func)} a tensor of shape "
                    f"{tuple(tensor.shape)} that no call of torch was seen to make (a scripted or compiled function?); "
                    "write it as plain calls of torch"
                )
            name = f"constant {len(self.constants)}"
            self.constants[name] = spec
            self._kept.append(tensor)  # so that no other has its identity
            self._names[id(tensor)] = name
            return Given("read", name, spec)
        return Given("read", name, spec)

    def name_of(self, tensor: torch.Tensor) -> str:
        """The name of a tensor that was made.

        Raises:
            UserError: no call has made it.
        """
        try:
            return self._names[id(tensor)]
        except KeyError:
            raise UserError("--model: what the model returns was made by no call of torch") from None


def _unseen_function() -> str | None:
    """The function with a backward of its own whose forward runs, though nobody saw it called: whoever calls it has
    kept its ``apply`` since before the trace."""
    frame = sys._getframe(3)
    while frame is not None:
        names = frame.f_code.co_varnames
        first = frame.f_locals.get(names[0]) if names and frame.f_code.co_name == "forward" else None
        if isinstance(first, FunctionCtx):
            return frame.f_code.co_qualname.rpartition(".")[0].rpartition(".")[2]
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _collector(tensors: list[torch.Tensor]) -> Callable[[Any], Any]:
    """Puts places where tensors stand, and collects them; one that stands twice has one place (self-attention asks
    whether its three arguments are the same)."""

    def collect(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            found = next((place for place, tensor in enumerate(tensors) if tensor is leaf), len(tensors))
            if found == len(tensors):
                tensors.append(leaf)
            return Place(found)
        return leaf

    return collect


def _version(tensor: torch.Tensor) -> int:
    return int(tensor._version)


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
