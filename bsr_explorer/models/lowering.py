"""From a model's step to the step that a device runs: number formats, the casts of autocast, kernels.

What autocast casts is its own table (``torch.amp``): products run in 16 bits, losses and, on CUDA, softmax
in 32; everything else takes the widest format among its operands. Each kind of operation says which it is. A weight
that trains is cast once and its copy is held until autocast is left; that of a frozen weight is made anew for each use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bsr_explorer.devices import Device, device_of
from bsr_explorer.operations.call import CALLED, Observer
from bsr_explorer.operations.kinds import inferred, kind_of, made_by
from bsr_explorer.operations.op import Op, Tensor
from bsr_explorer.tape import Tape

PRECISIONS: dict[str, tuple[str, bool]] = {
    "fp32": ("fp32", False),
    "amp_bf16": ("bf16", True),
    "amp_fp16": ("fp16", True),
    "bf16": ("bf16", False),
}
"""Number format, and whether autocast uses it (or weights and images have it themselves)."""


def lower(tape: Tape, precision: str, device: str) -> Tape:
    """The tape with its number formats and kernels.

    Args:
        precision: key of ``PRECISIONS``.
        device: key of ``devices.DEVICES``.
    """
    dtype, autocast = PRECISIONS[precision]
    if tape.lowered:
        return _with_copies(tape, dtype, device_of(device)) if autocast else _brought_in(tape, dtype)
    target = device_of(device)
    if autocast:
        tape = _autocast(tape, dtype, target)
    elif dtype != "fp32":
        tape = _all_in(tape, dtype)
    return _on_device(tape, target)


def _with_copies(tape: Tape, dtype: str, device: Device) -> Tape:
    """A step that was traced under autocast, with its copies of weights that train as tensors of their own: each is
    made once, whoever shares the weight. (Other casts are seen in the calls that make them; what a method has brought
    is cast as autocast would.)"""
    tensors = {tensor.name: tensor for tensor in tape.inputs}
    weights = {name for name, p in tape.parameters.items() if p.trains}
    ops: list[Op] = []
    made: dict[tuple[str, str], str] = {}
    for op in map(_as_called, tape):
        seen = "observer" in op.attrs
        for lowered in (
            _with_its_copies(op, dtype, weights, made) if seen else _cast(tape, op, dtype, device, tensors)
        ):
            tensors |= {tensor.name: tensor for tensor in made_by(lowered, tensors, tape.parameters)}
            ops.append(lowered)
    return replace(tape, ops=tuple(ops))


def _as_called(op: Op) -> Op:
    """A linear layer as the call that it was traced as, whose casts were seen; where it packs what it reads, or a
    method has changed it, it is no longer that call."""
    called: Op | None = op.attrs.get(CALLED)
    if (
        called is None
        or op.kind != "linear"
        or op.packs
        or [*op.params.values()] != [*called.params.values()]
    ):
        return op
    return replace(op, kind="call", params=called.params, attrs=called.attrs)


def _with_its_copies(op: Op, dtype: str, weights: set[str], made: dict[tuple[str, str], str]) -> Iterator[Op]:
    """A call, and before it the copies of weights that it is the first to need.

    Args:
        weights: those that train.
        made: copies that there are, by weight and segment.
    """
    observer: Observer = op.attrs["observer"]
    trained = {
        number: part
        for number, (kind, part) in enumerate(op.attrs.get("arguments", ()))
        if kind == "part" and op.params[part] in weights
    }
    casts = [number for number in (observer.casts() if trained else ()) if number in trained]
    params = dict(op.params)
    for number in reversed(casts):
        part, name = str(trained[number]), op.params[trained[number]]
        if (name, op.segment) not in made:  # what runs again makes its own again
            made[name, op.segment] = f"{name} in {dtype}{op.segment and f' for {op.segment}'}"
            attrs = {"dtype": dtype, "cached": True}
            cast = replace(op, kind="cast_parameter", reads=(), writes=made[name, op.segment], others=())
            yield replace(cast, params={"value": name}, attrs=attrs, stored={})
        params[part] = made[name, op.segment]
    if casts:
        op = replace(op, params=params, attrs={**op.attrs, "observer": observer.given_copies(casts)})
    yield op


def _all_in(tape: Tape, dtype: str) -> Tape:
    """Weights and images in one format."""
    parameters = {name: replace(p, dtype=dtype) for name, p in tape.parameters.items()}
    return replace(tape, parameters=parameters, inputs=tuple(_input_in(t, dtype) for t in tape.inputs))


def _brought_in(tape: Tape, dtype: str) -> Tape:
    """What methods brought, in the format of a tape that was traced in it."""
    parameters = {
        name: replace(p, dtype=dtype) if p.dtype == "fp32" else p for name, p in tape.parameters.items()
    }
    return tape if dtype == "fp32" else replace(tape, parameters=parameters)


def _input_in(tensor: Tensor, dtype: str) -> Tensor:
    return tensor if tensor.dtype.startswith("int") else replace(tensor, dtype=dtype)


def _on_device(tape: Tape, device: Device) -> Tape:
    """Operations with what the device adds to them; the tape itself, if it adds nothing."""
    ops = []
    for op in tape:
        formats = tuple(tape.tensors[name].dtype for name in op.reads)
        added = kind_of(op).on_device(op, formats, device)
        same = all(op.attrs.get(key) == value for key, value in added.items())
        ops.append(op if same else replace(op, attrs={**op.attrs, **added}))
    unchanged = all(new is old for new, old in zip(ops, tape.ops, strict=True))
    if unchanged and device.name == tape.device:
        return tape
    return replace(tape, ops=tuple(ops), device=device.name)


def _autocast(tape: Tape, dtype: str, device: Device) -> Tape:
    tensors = {tensor.name: tensor for tensor in tape.inputs}
    ops: list[Op] = []
    for op in tape:
        for lowered in _cast(tape, op, dtype, device, tensors):
            tensors[lowered.writes] = inferred(lowered, tensors, tape.parameters)
            ops.append(lowered)
    return replace(tape, ops=tuple(ops))


def _cast(tape: Tape, op: Op, dtype: str, device: Device, tensors: dict[str, Tensor]) -> Iterator[Op]:
    """The casts that an operation needs, and then the operation on their results."""
    casting = kind_of(op).autocast(tuple(tensors[name].dtype for name in op.reads), dtype, device)
    if casting.attrs:
        op = replace(op, attrs={**op.attrs, **casting.attrs})
    target = casting.to
    if target is None:
        yield op
        return
    reads, params, stored = list(op.reads), dict(op.params), dict(op.stored)
    for part, name in reversed(list(op.params.items())):  # in autocast's order, the last argument first
        if name in tape.parameters and tape.parameters[name].dtype != target:
            ours = op.packs or kind_of(op).casts_itself
            cached = tape.parameters[name].trains and not ours
            params[part] = f"{name} in {target}"
            if (
                not cached and params[part] in tensors
            ):  # of a weight that several operations share, each makes its own
                params[part] += f" for {op.name or op.kind}"
            attrs = {"dtype": target, "cached": cached}
            made = replace(op, kind="cast_parameter", reads=(), writes=params[part], attrs=attrs, stored={})
            yield replace(made, params={"value": name})
    for place, name in enumerate(op.reads):
        if tensors[name].dtype not in (target, "int64"):
            reads[place] = f"{name} in {target} for {op.name or op.kind}"
            attrs = {"dtype": target} if kind_of(op).carries(op) else {"dtype": target, "detached": True}
            if name in stored:
                stored[reads[place]] = stored.pop(name).cast_from(tensors[name].dtype)
            cast = replace(op, kind="cast", reads=(name,), writes=reads[place], params={}, stored={})
            yield replace(cast, attrs=attrs)
    yield replace(op, reads=tuple(reads), params=params, stored=stored)
