"""Running a model once, so that its calls are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointFunction

from bsr_explorer.errors import UserError
from bsr_explorer.models.outputs import logits_of
from bsr_explorer.models.tasks import loss_of
from bsr_explorer.models.traced.calls import Spec, Trace, quiet
from bsr_explorer.models.traced.kernels import Kernels
from bsr_explorer.models.traced.making import empty
from bsr_explorer.models.traced.recorder import Recorder

LOSS = "loss"
"""The path of what the model's loss calls."""


def trace(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    autocast: torch.dtype | None = None,
    kernels: Kernels | None = None,
) -> Trace:
    """The forward pass of a model, and its loss, where it has one of its own.

    Args:
        model: on a real device, in training; what its parameters hold does not matter.
        inputs: what it is given, such as ``images``, and ``labels``, by name; their numbers do not matter.
        autocast: number format that autocast uses; None: it does not run.
        kernels: of the device on which it would run, where that is not the CPU.

    Raises:
        UserError: something of it cannot be followed, by name.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    own: dict[int, tuple[str, str]] = {}
    stand_ins: dict[str, torch.Tensor] = {}
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            stand_ins[name] = _on(kernels, fake, fake.from_tensor(tensor.detach()))
            own[id(stand_ins[name])] = own[id(tensor)] = (kind, name)
    given = {name: _on(kernels, fake, fake.from_tensor(tensor)) for name, tensor in inputs.items()}
    specs = {name: Spec.of(tensor) for name, tensor in given.items()}
    recorder = Recorder(own, {id(tensor): name for name, tensor in given.items()}, kernels)
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(fake)
        if autocast is not None:
            stack.enter_context(torch.autocast(given["labels"].device.type, autocast))
        stack.enter_context(_without_graph(model))
        stack.enter_context(_keeping_as_autograd_does())
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


def _on(kernels: Kernels | None, fake: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without memory on a device, which need not be here."""
    if kernels is None:
        return tensor
    with fake:
        return empty(Spec.of(tensor), kernels.place)


def _run(
    model: nn.Module,
    stand_ins: dict[str, torch.Tensor],
    given: Mapping[str, torch.Tensor],
    recorder: Recorder,
) -> torch.Tensor:
    """Run a model and its loss, as a training step does; the loss."""
    whole = _WithLoss(model, recorder)
    own = {f"model.{name}": tensor for name, tensor in stand_ins.items()}
    value = torch.func.functional_call(whole, own, tuple(given.values()))
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        what = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise UserError(f"--model: loss: it returns {what}; a tensor of one number is needed")
    return value


class _WithLoss(nn.Module):
    """A model and its loss, which may use the model's parameters."""

    def __init__(self, model: nn.Module, recorder: Recorder) -> None:
        super().__init__()
        self.model, self._recorder = model, recorder
        self._loss = loss_of(model)

    def forward(self, given: torch.Tensor, labels: torch.Tensor) -> Any:
        return self._called(logits_of(self.model(given)), labels)

    def _called(self, logits: torch.Tensor, labels: torch.Tensor) -> Any:
        self._recorder.paths.append(LOSS)
        return self._loss(logits, labels)


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
        if cls is CheckpointFunction:
            raise UserError(_CHECKPOINTS)
        return recorder.record(_Applied(cls, apply), args, kwargs)

    nn.Module.__call__ = called  # type: ignore[method-assign]
    torch.autograd.Function.apply = classmethod(applied)
    try:
        yield
    finally:
        nn.Module.__call__ = plain  # type: ignore[method-assign]
        torch.autograd.Function.apply = apply


@contextmanager
def _keeping_as_autograd_does() -> Iterator[None]:
    """Within it, a model that itself decides how autograd keeps tensors (hooks, checkpoints) is refused: a trace does
    not see what it keeps."""
    enter = saved_tensors_hooks.__enter__

    def refuse(hooks: Any) -> Any:
        raise UserError(_CHECKPOINTS)

    saved_tensors_hooks.__enter__ = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        saved_tensors_hooks.__enter__ = enter  # type: ignore[method-assign]


_CHECKPOINTS = (
    "--model: it checkpoints parts of itself (torch.utils.checkpoint), or has hooks of its own on what autograd saves, "
    "which a trace does not follow; turn that off, and add +checkpoint to the method"
)


@contextmanager
def _without_graph(model: nn.Module) -> Iterator[None]:
    """Within it, no parameter needs a gradient: some modules keep a list of their own parameters, which stands for them
    in their calls (``nn.LSTM``), and a graph would hold what Python has let go of."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


class _Applied:
    """A function with a backward of its own, as a call.

    Attributes:
        key: what is called, whoever calls it.
    """

    def __init__(self, cls: Any, apply: Any) -> None:
        self.key, self._apply, self.__name__ = cls, apply.__get__(None, cls), cls.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._apply(*args, **kwargs)
