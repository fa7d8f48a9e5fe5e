"""Norms, activations, scales and sums."""

from __future__ import annotations

from bsr_explorer.operations.kind import (
    Backward,
    Context,
    Forward,
    Kept,
    Rule,
    give_all,
    kept,
    nothing,
    own,
    write,
    zero,
)
from bsr_explorer.tape import Shape
from bsr_explorer.units import WIDTH

# --- layer norm -----------------------------------------------------------------------------------------


def statistics(c: Context) -> tuple[Shape, str]:
    """Shape and number format of the mean and of the inverse deviation: the weight's format, or what the
    operation says (fp32 on CUDA, whatever is normed)."""
    dtype = c.params["weight"].dtype if "weight" in c.params else c.reads[0].dtype
    return (*c.reads[0].shape[:-1], 1), c.op.attrs.get("statistics", dtype)


def _norm_keeps(c: Context) -> list[Kept]:
    """Input, mean and inverse deviation, even of a frozen norm, once it is recorded."""
    if not c.live:
        return []
    shape, dtype = statistics(c)
    return [kept(c.reads[0]), own(c, "mean", shape, dtype), own(c, "rstd", shape, dtype)]


def _norm_run(c: Context, m: Forward) -> None:
    (*rows, _), dtype = c.reads[0].shape, statistics(c)[1]
    size = WIDTH[dtype]
    for length in rows:
        size *= length
    write(c, m)
    m.take(c.own("mean"), size)
    m.take(c.own("rstd"), size)
    m.drop(c.own("mean"), c.own("rstd"))


LAYER_NORM = Rule(_norm_keeps, zero, zero, _norm_run, give_all, keeps_results=True)

# --- activations ----------------------------------------------------------------------------------------


def _input_keeps(c: Context) -> list[Kept]:
    return [kept(c.reads[0])] if c.needs[0] else []


GELU = Rule(_input_keeps, zero, zero, write, give_all)


def _silu_unwind(c: Context, b: Backward) -> None:
    """The gradients of both halves of the input are laid into one tensor (``gate_half`` left the other)."""
    half = c.own("half gradient")
    b.take(half, c.writes.bytes)
    b.end_call()
    b.end_node(c.reads[0].storage)
    b.give(0)
    b.drop(half, _gate_gradient(c.reads[0].name))


def _silu_keeps(c: Context) -> list[Kept]:
    """A half of the input, which holds the whole."""
    return [kept(c.reads[0], c.writes.shape)] if c.needs[0] else []


SILU_HALF = Rule(_silu_keeps, zero, zero, write, _silu_unwind)


def _gate_keeps(c: Context) -> list[Kept]:
    """A product keeps both factors; the second is a half of its storage, and holds the whole."""
    return [kept(c.reads[0]), kept(c.reads[1], c.writes.shape)] if c.needs[0] else []


def _gate_unwind(c: Context, b: Backward) -> None:
    b.give(0)
    b.take(_gate_gradient(c.reads[1].name), c.writes.bytes)


def _gate_gradient(tensor: str) -> str:
    return f"gradient of the gate in {tensor}"


GATE_HALF = Rule(_gate_keeps, zero, zero, write, _gate_unwind)

# --- scale and sums -------------------------------------------------------------------------------------


def _scale_keeps(c: Context) -> list[Kept]:
    """The input if gamma trains; gamma if the input needs a gradient."""
    reads = [kept(c.reads[0])] if c.trains("gamma") else []
    return [*reads, kept(c.params["gamma"])] if c.needs[0] else reads


def _scale_unwind(c: Context, b: Backward) -> None:
    """Both gradients are products first. Gamma's is then summed up, and the input's is cast to the input's
    number format, if that is another."""
    wide = c.needs[0] and c.reads[0].dtype != c.writes.dtype
    if wide:
        b.take(c.own("wide gradient"), c.writes.bytes)
    elif c.needs[0]:
        b.give(0)
    if c.trains("gamma"):
        b.take(c.own("product"), c.writes.bytes)
    b.end_call()
    if wide:
        b.give(0)
        b.drop(c.own("wide gradient"))
    if c.trains("gamma"):
        b.give_part("gamma")
        b.drop(c.own("product"))


SCALE = Rule(_scale_keeps, zero, zero, write, _scale_unwind)


def _add_unwind(c: Context, b: Backward) -> None:
    """Both summands get the gradient itself, or a copy in their own number format."""
    for read, needs in enumerate(c.needs):
        if needs and c.reads[read].dtype == c.writes.dtype:
            b.pass_on(read)
        elif needs:
            b.give(read)


ADD = Rule(nothing, zero, zero, write, _add_unwind)


def _add_parameter_unwind(c: Context, b: Backward) -> None:
    """With one image the parameter's gradient needs no sum: it is the one that arrived, if nothing else is."""
    _add_unwind(c, b)
    shared = c.needs[0] and c.reads[0].dtype == c.writes.dtype
    if c.trains("value") and c.writes.shape[0] == 1 and not shared:
        b.view_part("value")
    elif c.trains("value"):
        b.give_part("value")


ADD_PARAMETER = Rule(nothing, zero, zero, write, _add_parameter_unwind)
