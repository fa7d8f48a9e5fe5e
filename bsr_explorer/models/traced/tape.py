"""From a trace to a tape: each call is an operation of the kind ``call``, which knows whom to ask what it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch

from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.calls import DTYPES, Call, Made, Spec, Trace
from bsr_explorer.models.traced.observed import Observed
from bsr_explorer.naming import Naming
from bsr_explorer.operations.call import CALLED, Argument, Shown
from bsr_explorer.storages.by_call import laid_out
from bsr_explorer.tape import Op, Parameter, Tape, Tensor


def tape_of_trace(
    trace: Trace,
    parameters: Iterable[tuple[str, torch.Tensor]],
    buffers: Iterable[tuple[str, torch.Tensor]],
    naming: Naming,
    architecture: str,
    device: str = "cpu",
) -> Tape:
    """The tape of a traced forward pass, and of its loss.

    Args:
        trace: for a number of images (``Trace.at``).
        parameters, buffers: of the model, by name, in its order.
    """
    writes = [_writes(call) for call in trace.calls]
    last = next(n for n, call in enumerate(trace.calls) if trace.loss in [made.name for made in call.made])
    ops = [_op(call, naming, trace, device) for call in trace.calls[: last + 1]]
    held = {storage: writes[end] for storage, end in trace.held.items() if end <= last}
    used = _used(trace)
    return Tape(
        (
            *(_input(name, spec, "input") for name, spec in trace.inputs.items()),
            *(_input(name, spec, "activation") for name, spec in trace.constants.items()),
        ),
        {name: _parameter(name, tensor, naming, name in used) for name, tensor in parameters},
        tuple(ops),
        buffers={name: _parameter(name, tensor, naming) for name, tensor in buffers},
        device=device,
        architecture=architecture,
        naming=naming,
        traced=frozenset((*(name for op in ops for name in (op.writes, *op.others)), *trace.constants)),
        held=held,
        lowered=True,
    )


def _used(trace: Trace) -> frozenset[str]:
    """The parameters on which the loss depends."""
    wanted, found = {trace.loss}, set[str]()
    for call in reversed(trace.calls):
        if call.detached or wanted.isdisjoint(made.name for made in call.made):
            continue
        for given in call.given:
            (found if given.kind == "parameter" else wanted).add(given.name)
    return frozenset(found)


def _parameter(name: str, tensor: torch.Tensor, naming: Naming, used: bool = True) -> Parameter:
    dtype = number_format(tensor.dtype)
    return Parameter(name, tuple(tensor.shape), naming.block_of(name), used, dtype, used=used)


def number_format(dtype: torch.dtype) -> str:
    """What the package calls a number format.

    Raises:
        UserError: it knows none.
    """
    try:
        return DTYPES[dtype]
    except KeyError:
        known = ", ".join(map(str, DTYPES))
        raise UserError(f"--model: numbers of {dtype} are not understood; known are {known}") from None


def _input(name: str, spec: Spec, role: Literal["input", "activation"]) -> Tensor:
    return Tensor(name, spec.shape, name, number_format(spec.dtype), role)


def _writes(call: Call) -> str:
    return call.made[0].name


def _op(call: Call, naming: Naming, trace: Trace, device: str) -> Op:
    reads: list[str] = []
    params: dict[str, str] = {}
    arguments: list[Argument] = []
    for number, given in enumerate(call.given):
        if given.kind == "read":
            arguments.append(("read", len(reads)))
            reads.append(given.name)
        elif given.kind == "parameter":
            arguments.append(("part", f"{number}"))
            params[f"{number}"] = given.name
        else:
            arguments.append(("buffer", given.name))
    op = Op(
        call.path,
        "call",
        naming.block_of(call.path),
        tuple(reads),
        _writes(call),
        params,
        {
            "function": call.name,
            "observer": Observed(call, trace.autocast, device),
            "arguments": tuple(arguments),
            "results": tuple(_result(made) for made in call.made),
            "shows": tuple(_shown(made, arguments) for made in call.made),
            "lies": laid_out(call.made[0].spec.shape, call.made[0].spec.stride),
            "changes": bool(call.changes or call.detached),
        },
        others=tuple(made.name for made in call.made[1:]),
    )
    linear = _linear(call, naming)
    return op if linear is None else replace(linear, attrs={CALLED: op})


def _linear(call: Call, naming: Naming) -> Op | None:
    """A linear layer of (B, in) or (B, N, in) as the kind that has a rule of its own, so that methods find it."""
    kinds = [given.kind for given in call.given]
    if call.name != "linear" or kinds[:2] != ["read", "parameter"] or set(kinds[2:]) - {"parameter"}:
        return None
    x = call.given[0]
    if len(x.spec.shape) not in (2, 3, 4) or not _contiguous(x.spec) or call.detached:
        return None
    parts = dict(zip(("weight", "bias"), (given.name for given in call.given[1:]), strict=False))
    return Op(call.path, "linear", naming.block_of(call.path), (x.name,), _writes(call), parts)


def _contiguous(spec: Spec) -> bool:
    expected = 1
    for size, stride in zip(reversed(spec.shape), reversed(spec.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _result(made: Made) -> Tensor:
    return Tensor(made.name, made.spec.shape, made.name, number_format(made.spec.dtype))


def _shown(made: Made, arguments: list[Argument]) -> Shown:
    if made.shows is not None:
        return arguments[made.shows]
    return None if made.like is None else ("result", made.like)
