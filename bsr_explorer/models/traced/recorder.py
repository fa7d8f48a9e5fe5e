"""Tracing a forward pass: every call of a function of torch, with shapes and without memory.

The model runs once with tensors that have shapes and no numbers (torch's ``FakeTensorMode``, which decides as the
device would), and each call from Python is noted: what it was given, what it made, and after which call Python let go
of each tensor. Fused attention, a norm or a loss is one call. What is called within a call is seen when the call is
observed (``observed``).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

from bsr_explorer.errors import UserError
from bsr_explorer.models.outputs import logits_of
from bsr_explorer.models.traced.calls import Call, Given, Made, Place, Spec, Trace, mapped, name_of, quiet

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Recorder(TorchFunctionMode):
    """Notes calls.

    Args:
        own: parameters and buffers of the model, by the identity of the tensors that stand for them.
        inputs: the same of its inputs.
    """

    def __init__(self, own: Mapping[int, tuple[str, str]], inputs: Mapping[int, str]) -> None:
        super().__init__()
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
    """Puts places where tensors stand, and collects them; one that stands twice has two places."""

    def collect(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            tensors.append(leaf)
            return Place(len(tensors) - 1)
        return leaf

    return collect


def _version(tensor: torch.Tensor) -> int:
    return int(tensor._version)


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


# --- running a model --------------------------------------------------------------------------------------


def trace(model: nn.Module, inputs: Mapping[str, torch.Tensor], autocast: torch.dtype | None = None) -> Trace:
    """The forward pass of a model, and its loss, where it has one of its own.

    Args:
        model: on a real device, in training; what its parameters hold does not matter.
        inputs: ``images`` and ``labels``; their numbers do not matter.
        autocast: number format that autocast uses; None: it does not run.

    Raises:
        UserError: something of it cannot be followed, by name.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    own: dict[int, tuple[str, str]] = {}
    stand_ins: dict[str, torch.Tensor] = {}
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            stand_ins[name] = fake.from_tensor(tensor.detach())
            own[id(stand_ins[name])] = (kind, name)
    given = {name: fake.from_tensor(tensor) for name, tensor in inputs.items()}
    specs = {name: Spec.of(tensor) for name, tensor in given.items()}
    recorder = Recorder(own, {id(tensor): name for name, tensor in given.items()})
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(fake)
        if autocast is not None:
            stack.enter_context(torch.autocast(given["images"].device.type, autocast))
        stack.enter_context(_following(model, recorder))
        stack.enter_context(recorder)
        try:
            loss = _run(model, stand_ins, given, recorder)
        except UserError:
            raise
        except Exception as error:
            raise _cannot(recorder, error) from error
        name = recorder.name_of(loss)
    return Trace(tuple(recorder.calls), specs, recorder.constants, dict(recorder.held), name, autocast)


LOSS = "loss"
"""The path of what the model's loss calls."""


def _run(
    model: nn.Module,
    stand_ins: dict[str, torch.Tensor],
    given: Mapping[str, torch.Tensor],
    recorder: Recorder,
) -> torch.Tensor:
    """Run a model and its loss, as a training step does; the loss."""
    own = getattr(model, "own_loss", None) or F.cross_entropy

    def called(logits: torch.Tensor) -> torch.Tensor:
        recorder.paths.append(LOSS)
        value: torch.Tensor = own(logits, given["labels"])
        return value

    value = called(logits_of(torch.func.functional_call(model, stand_ins, (given["images"],))))
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        what = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise UserError(f"--model: loss: it returns {what}; a tensor of one number is needed")
    return value


def _cannot(recorder: Recorder, error: Exception) -> UserError:
    where = recorder.failed_in or "the model"
    line = _line_of(error)
    why = str(error).splitlines()[0][:200] if str(error) else ""
    if "DataDependent" in type(error).__name__ or "data-dependent" in str(error).lower():
        why = "what it does depends on the numbers in a tensor, which a trace does not have"
    return UserError(f"--model: {where} cannot be traced{line}: {why or type(error).__name__}")


def _line_of(error: Exception) -> str:
    """The last line of a model's own code that was running."""
    place, found = error.__traceback__, ""
    while place is not None:
        file = place.tb_frame.f_code.co_filename
        if not any(part in file for part in ("/torch/", "bsr_explorer/models/traced")):
            found = f" ({file.rpartition('/')[2]}, line {place.tb_lineno})"
        place = place.tb_next
    return found


@contextmanager
def _following(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Let a recorder know which module runs, and see functions that have a backward of their own."""
    paths = {id(module): path for path, module in model.named_modules()}
    plain, apply = nn.Module.__call__, vars(torch.autograd.Function)["apply"]

    def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if id(module) not in paths:
            return plain(module, *args, **kwargs)
        recorder.paths.append(paths[id(module)])
        try:
            return plain(module, *args, **kwargs)
        except Exception:
            recorder.failed_in = recorder.failed_in or paths[id(module)]
            raise
        finally:
            recorder.paths.pop()

    def applied(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return recorder.record(_Applied(cls, apply), args, kwargs)

    nn.Module.__call__ = called  # type: ignore[method-assign]
    torch.autograd.Function.apply = classmethod(applied)
    try:
        yield
    finally:
        nn.Module.__call__ = plain  # type: ignore[method-assign]
        torch.autograd.Function.apply = apply


class _Applied:
    """A function with a backward of its own, as a call.

    Attributes:
        key: what is called, whoever calls it.
    """

    def __init__(self, cls: Any, apply: Any) -> None:
        self.key, self._apply, self.__name__ = cls, apply.__get__(None, cls), cls.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._apply(*args, **kwargs)
