"""Activations, scales and sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.devices import Device
from bsr_explorer.errors import UserError
from bsr_explorer.operations.kind import Casting, Formats, Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, Taking, kept, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import WIDTH

# --- activations ----------------------------------------------------------------------------------------


def _input_keeps(c: Context) -> list[Kept]:
    return [kept(c.reads[0])] if c.needs[0] else []


def _gelu_unwind_packed(c: Context, b: Backward) -> None:
    b.restore_into(0, c.reads[0].storage)
    b.end_call()


_GELU = Rule(keeps=_input_keeps)

GELU = Kind(name="gelu", summary="GELU", plain=_GELU, packed=_GELU.packed(unwind=_gelu_unwind_packed))


def _output_keeps(c: Context) -> list[Kept]:
    return [kept(c.writes)] if c.needs[0] else []


RELU = Kind(name="relu", summary="ReLU", plain=Rule(keeps=_output_keeps, keeps_results=True))


def _half_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    return (*reads[0].shape[:-1], reads[0].shape[-1] // 2)


def _silu_keeps(c: Context) -> list[Kept]:
    """A half of the input, which holds the whole."""
    return [kept(c.reads[0], c.writes.shape)] if c.needs[0] else []


def _silu_unwind(c: Context, b: Backward) -> None:
    """The gradients of both halves of the input are laid into one tensor (``gate_half`` left the other)."""
    half = c.own("half gradient")
    b.take(half, c.writes.bytes)
    b.end_call()
    b.end_node(c.reads[0].storage)
    b.give(0)
    b.drop(half, _gate_gradient(c.reads[0].name))


SILU_HALF = Kind(
    name="silu_half",
    summary="SiLU of the first half of a gated MLP's hidden layer",
    shape=_half_shape,
    plain=Rule(keeps=_silu_keeps, unwind=_silu_unwind),
)


def _gate_keeps(c: Context) -> list[Kept]:
    """A product keeps both factors; the second is a half of its storage, and holds the whole."""
    return [kept(c.reads[0]), kept(c.reads[1], c.writes.shape)] if c.needs[0] else []


def _gate_unwind(c: Context, b: Backward) -> None:
    b.give(0)
    b.take(_gate_gradient(c.reads[1].name), c.writes.bytes)


def _gate_gradient(tensor: str) -> str:
    return f"gradient of the gate in {tensor}"


GATE_HALF = Kind(
    name="gate_half",
    summary="a product with the second half of a gated MLP's hidden layer",
    plain=Rule(keeps=_gate_keeps, unwind=_gate_unwind),
    stays=1,
)

# --- scale ----------------------------------------------------------------------------------------------


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
        b.scratch(*c.device.sum_scratch(*_rows(c)))
        b.drop(c.own("product"))


def _rows(c: Context) -> tuple[int, int]:
    """The result as a matrix: (rows, channels)."""
    channels = c.writes.shape[-1]
    return c.writes.numel // channels, channels


def _scale_unwind_packed(c: Context, b: Backward) -> None:
    if c.trains("gamma"):
        b.bring_back(c.reads[0].storage)
        if c.reads[0].dtype != c.writes.dtype:
            b.take(c.own("product"), c.writes.bytes)
        b.give_part("gamma")
        b.scratch(*c.device.sum_scratch(*_rows(c)))
        b.drop(c.own("product"))
        b.bring_back()
    if c.needs[0] and c.reads[0].dtype != c.writes.dtype:
        b.take(c.own("wide gradient"), c.writes.bytes)
    if c.needs[0]:
        b.give(0)
    b.drop(c.own("wide gradient"))
    b.end_call()


_SCALE = Rule(keeps=_scale_keeps, unwind=_scale_unwind)

SCALE = Kind(
    name="scale",
    summary="a product with one number a channel (LayerScale)",
    plain=_SCALE,
    packed=_SCALE.packed(unwind=_scale_unwind_packed),
)

# --- factors of channels -----------------------------------------------------------------------------------


def _channels_keeps(c: Context) -> list[Kept]:
    """The whole input, of which the factors multiply the last channels, if they train."""
    return _scale_keeps(c)


def _narrow_factors(c: Context, b: Taking) -> str:
    """A copy of the factors in the input's number format, if that is another."""
    gamma, name = c.params["gamma"], c.own("factors")
    if gamma.dtype != c.reads[0].dtype:
        b.take(name, gamma.numel * WIDTH[c.reads[0].dtype])
    return name


def _channels_run(c: Context, m: Forward) -> None:
    factors = _narrow_factors(c, m)
    write(c, m)
    m.drop(factors)


def _channels_unwind(c: Context, b: Backward) -> None:
    """The product of both is summed up, and the sum is cast; then the gradient is scaled, in a copy."""
    gamma, x = c.params["gamma"], c.reads[0]
    if c.trains("gamma"):
        product, total = c.own("product"), c.own("sum")
        b.take(product, x.numel // x.shape[-1] * gamma.numel * WIDTH[x.dtype])
        if gamma.dtype != x.dtype:
            b.take(total, gamma.numel * WIDTH[x.dtype])
            b.drop(product)
        b.give_part("gamma")
        b.drop(product, total)
    if c.needs[0]:
        factors = _narrow_factors(c, b)
        b.give(0)
        b.drop(factors)
    b.end_call()


def _as_it_is(formats: Formats, narrow: str, device: Device) -> Casting:
    """The result has the format of what is scaled."""
    return Casting(None, {"dtype": formats[0]})


SCALE_CHANNELS = Kind(
    name="scale_channels",
    summary="a product of the last channels with one number each",
    plain=Rule(keeps=_channels_keeps, run=_channels_run, unwind=_channels_unwind, keeps_results=True),
    autocast=_as_it_is,
)

# --- a constant factor ----------------------------------------------------------------------------------


def _times_run(c: Context, m: Forward) -> None:
    if c.needs[0]:
        m.keep_number(c.own("factor"), c.device.number)
    write(c, m)


def _times_unwind(c: Context, b: Backward) -> None:
    b.give(0)
    b.drop(c.own("factor"))


TIMES = Kind(
    name="times",
    summary="a product with a number that does not train",
    plain=Rule(run=_times_run, unwind=_times_unwind),
)

# --- copies ---------------------------------------------------------------------------------------------


def _rows_unwind(c: Context, b: Backward) -> None:
    b.pass_on(0)


ROWS = Kind(name="rows", summary="a copy that lies row by row", plain=Rule(unwind=_rows_unwind))

# --- sums -----------------------------------------------------------------------------------------------


def _add_unwind(c: Context, b: Backward) -> None:
    """Both summands get the gradient itself, or a copy in their own number format."""
    for read, needs in enumerate(c.needs):
        if needs and c.reads[read].dtype == c.writes.dtype:
            b.pass_on(read)
        elif needs:
            b.give(read)


def _add_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    one, other = (tensor.shape for tensor in reads)
    if one != other:
        raise UserError(
            f"--method: {op.name or op.writes} adds tensors of shapes {one} and {other}, which cannot be added; the "
            "methods do not go together"
        )
    return one


ADD = Kind(name="add", summary="the sum of two tensors", plain=Rule(unwind=_add_unwind), shape=_add_shape)


def _add_parameter_unwind(c: Context, b: Backward) -> None:
    """With one image the parameter's gradient needs no sum: it is the one that arrived, if nothing else is."""
    _add_unwind(c, b)
    shared = c.needs[0] and c.reads[0].dtype == c.writes.dtype
    if c.trains("value") and c.writes.shape[0] == 1 and not shared:
        b.view_part("value")
    elif c.trains("value"):
        b.give_part("value")


ADD_PARAMETER = Kind(
    name="add_parameter",
    summary="the sum with a parameter that is the same for all images (position embeddings)",
    plain=Rule(unwind=_add_parameter_unwind),
)
