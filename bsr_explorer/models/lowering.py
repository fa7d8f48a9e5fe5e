"""From a model's step to the step that a device runs: number formats, the casts of autocast, kernels.

What autocast casts is its own table (``torch.amp``): products run in 16 bits, losses and, on CUDA, softmax
in 32; everything else takes the widest format among its operands. A weight that trains is cast once and
its copy is held until autocast is left; that of a frozen weight is made anew for each use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bsr_explorer.tape import Op, Tape, Tensor, inferred

PRECISIONS: dict[str, tuple[str, bool]] = {
    "fp32": ("fp32", False),
    "amp_bf16": ("bf16", True),
    "amp_fp16": ("fp16", True),
    "bf16": ("bf16", False),
}
"""Number format, and whether autocast uses it (or weights and images have it themselves)."""

ATTENTION = ("fused", "math", "flash", "efficient", "cudnn")
"""Attention paths. ``fused`` is the kernel that torch picks by itself; the last three exist on CUDA only."""

_IN_16_BITS = ("patch_embed", "linear")
_IN_32_BITS = ("cross_entropy", "prefix_tokens")


def lower(tape: Tape, precision: str, device: str) -> Tape:
    """The tape with its number formats and kernels.

    Args:
        precision: key of ``PRECISIONS``.
        device: ``cpu`` or ``cuda``.
    """
    dtype, autocast = PRECISIONS[precision]
    if autocast:
        tape = _autocast(tape, dtype, device)
    elif dtype != "fp32":
        tape = _all_in(tape, dtype)
    return replace(_on_cuda(tape), device=device) if device == "cuda" else tape


def _all_in(tape: Tape, dtype: str) -> Tape:
    """Weights and images in one format."""
    parameters = {name: replace(p, dtype=dtype) for name, p in tape.parameters.items()}
    return replace(tape, parameters=parameters, inputs=tuple(_input_in(t, dtype) for t in tape.inputs))


def _input_in(tensor: Tensor, dtype: str) -> Tensor:
    return tensor if tensor.dtype.startswith("int") else replace(tensor, dtype=dtype)


def _on_cuda(tape: Tape) -> Tape:
    """CUDA's norms keep their statistics in fp32; its fused attention is flash in 16 bits, else the
    memory-efficient kernel."""
    ops = []
    for op in tape:
        attrs = dict(op.attrs)
        if op.kind == "layer_norm":
            attrs["statistics"] = "fp32"
        elif op.kind == "attention" and attrs["path"] == "fused":
            narrow = tape.tensors[op.reads[0]].dtype != "fp32"
            attrs["path"] = "flash" if narrow else "efficient"
        ops.append(replace(op, attrs=attrs))
    return replace(tape, ops=tuple(ops))


def _autocast(tape: Tape, dtype: str, device: str) -> Tape:
    softmax = "fp32" if device == "cuda" else dtype
    tensors = {tensor.name: tensor for tensor in tape.inputs}
    ops: list[Op] = []
    for op in tape:
        for lowered in _cast(tape, _adjusted(op, softmax), dtype, device, tensors):
            tensors[lowered.writes] = inferred(lowered, tensors, tape.parameters)
            ops.append(lowered)
    return replace(tape, ops=tuple(ops))


def _adjusted(op: Op, softmax: str) -> Op:
    """The number formats within an operation of several steps."""
    if op.kind == "attention":
        return replace(op, attrs={**op.attrs, "softmax": softmax})
    if op.kind == "class_attention":
        return replace(op, attrs={**op.attrs, "softmax": softmax, "dtype": softmax})
    return op


def _cast(tape: Tape, op: Op, dtype: str, device: str, tensors: dict[str, Tensor]) -> Iterator[Op]:
    """The casts that an operation needs, and then the operation on their results."""
    target = dtype if op.kind in _IN_16_BITS else "fp32" if op.kind in _IN_32_BITS else None
    if op.kind == "layer_norm" and tensors[op.reads[0]].dtype == dtype:
        if device == "cpu":  # takes both formats at once, and gives back that of its input
            yield replace(op, attrs={**op.attrs, "dtype": dtype, "statistics": "fp32"})
            return
        target = "fp32"
    if target is None:
        yield op
        return
    reads, params, stored = list(op.reads), dict(op.params), dict(op.stored)
    for part, name in reversed(list(op.params.items())):  # in autocast's order, the last argument first
        if name in tape.parameters and tape.parameters[name].dtype != target:
            params[part] = f"{name} in {target}"
            cached = tape.parameters[name].trains and not op.packs  # a function of ours casts for itself
            attrs = {"dtype": target, "cached": cached}
            made = replace(op, kind="cast_parameter", reads=(), writes=params[part], attrs=attrs, stored={})
            yield replace(made, params={"value": name})
    for place, name in enumerate(op.reads):
        if tensors[name].dtype not in (target, "int64"):
            reads[place] = f"{name} in {target} for {op.name or op.kind}"
            attrs = {"dtype": target}
            if name in stored:
                stored[reads[place]] = stored.pop(name)
            cast = replace(op, kind="cast", reads=(name,), writes=reads[place], params={}, stored={})
            yield replace(cast, attrs=attrs)
    yield replace(op, reads=tuple(reads), params=params, stored=stored)
