"""Matrix products with a weight that is the product of two factors, whose input is kept as a Tucker decomposition.

The factors train by an optimiser, or take a step of their own in the backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from bsr_explorer.devices import Device
from bsr_explorer.operations.kind import Casting, Formats, Kind, in_16_bits
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, kept, write
from bsr_explorer.storages import Tucker
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH


def _shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(…, in) → (…, out), of L (out, K)."""
    return (*reads[0].shape[:-1], params["left"].shape[0])


def _keeps(c: Context) -> list[Kept]:
    """The input, and both factors."""
    reads = [kept(c.reads[0])] if c.trains("left") else []
    return [*reads, kept(c.params["left"]), kept(c.params["right"])]


def _rows(c: Context) -> int:
    return c.writes.numel // c.writes.shape[-1]


def _rank(c: Context) -> int:
    return c.params["right"].shape[0]


def _how(c: Context) -> Tucker:
    """How the input is kept."""
    return cast(Tucker, c.op.stores(c.reads[0].name).factors)


def _of_channels(c: Context) -> int:
    """Elements of a factor on the channels' basis, (K, K₃)."""
    return _rank(c) * _how(c).found(c.reads[0].shape)[2]


def _forward(c: Context) -> int:
    return FLOPS_PER_MAC * _rows(c) * (c.params["left"].numel + c.params["right"].numel)


def _backward(c: Context) -> int:
    """Of the factors: M, R·U₃ and Lᵀ·M, and a product with each."""
    passed = _forward(c) * c.needs[0]
    if not c.trains("left"):
        return passed
    out, width = c.writes.shape[-1], c.reads[0].shape[-1]
    products = 2 * FLOPS_PER_MAC * (out + width) * _of_channels(c)
    return passed + _how(c).core_flops(c.reads[0].shape, out) + products


def _between(c: Context) -> int:
    """Bytes of what lies between the factors, forward and backward."""
    return _rows(c) * _rank(c) * WIDTH[c.writes.dtype]


def _run(c: Context, m: Forward) -> None:
    m.take(c.own("between"), _between(c))
    write(c, m)
    m.drop(c.own("between"))


def _unwind(c: Context, b: Backward) -> None:
    if c.trains("left"):
        of = c.reads[0].shape, c.writes.shape[-1], c.reads[0].dtype
        for sizes in _how(c).gradient_steps(*of):
            b.scratch(*sizes)
        b.take(c.own("M"), _how(c).gradient_scratch(*of))
        for part in ("left", "right"):
            b.take(c.own("on channels"), _of_channels(c) * WIDTH[c.reads[0].dtype])
            b.give_part(part)
            b.drop(c.own("on channels"))
        b.drop(c.own("M"))
    if c.needs[0]:
        b.take(c.own("between"), _between(c))
        b.give(0, view=True)
        b.drop(c.own("between"))
    if c.trains("bias"):
        b.give_part("bias")
        b.scratch(*c.device.sum_scratch(_rows(c), c.writes.shape[-1]))
    b.end_call()


_FACTORED = Rule(keeps=_keeps, forward=_forward, backward=_backward, run=_run, unwind=_unwind)

FACTORED_LINEAR = Kind(
    name="factored_linear",
    summary="x·(L·R)ᵀ + b, where L and R train",
    shape=_shape,
    plain=_FACTORED,
    packed=_FACTORED.packed(),
    autocast=in_16_bits,
    casts_itself=True,
)

# --- factors that take a step of their own ------------------------------------------------------------------


def _own_keeps(c: Context) -> list[Kept]:
    """The input and both factors, whatever else trains."""
    return [kept(c.reads[0]), kept(c.params["left"]), kept(c.params["right"])]


def _own_backward(c: Context) -> int:
    """M; and of the step twelve products of factors, M and the channels' basis (``applied.wasi.take_step``)."""
    out, width, rank = c.writes.shape[-1], c.reads[0].shape[-1], _rank(c)
    channels = _how(c).found(c.reads[0].shape)[2]
    step = 3 * FLOPS_PER_MAC * rank * (out + width) * (rank + channels)
    return _forward(c) * c.needs[0] + _how(c).core_flops(c.reads[0].shape, out) + step


def _own_unwind(c: Context, b: Backward) -> None:
    """What is passed on, the bias's gradient, M; then the step, in fp32."""
    if c.needs[0]:
        b.take(c.own("between"), _between(c))
        b.give(0, view=True)
        b.drop(c.own("between"))
    if c.trains("bias"):
        b.give_part("bias")
        b.scratch(*c.device.sum_scratch(_rows(c), c.writes.shape[-1]))
    of = c.reads[0].shape, c.writes.shape[-1], c.reads[0].dtype
    for sizes in _how(c).gradient_steps(*of):
        b.scratch(*sizes)
    b.take(c.own("M"), _how(c).gradient_scratch(*of))
    _take_step(c, b)
    b.end_call()


def _take_step(c: Context, b: Backward) -> None:
    """What ``applied.wasi.take_step`` takes and gives back, in its order."""
    out, width, rank = c.writes.shape[-1], c.reads[0].shape[-1], _rank(c)
    channels, wide = _how(c).found(c.reads[0].shape)[2], WIDTH["fp32"]

    def take(name: str, rows: int, columns: int) -> None:
        b.take(c.own(name), rows * columns * wide)

    def drop(*names: str) -> None:
        b.drop(*map(c.own, names))

    if c.reads[0].dtype != "fp32":
        take("M in fp32", out, channels)
        drop("M")
        take("channels in fp32", width, channels)
    if c.op.attrs.get("master", c.params["left"].dtype) != "fp32":
        take("left in fp32", out, rank)
        take("right in fp32", rank, width)
    take("square", rank, rank)
    take("turned", width, rank)
    drop("square")
    take("on channels", channels, rank)
    drop("on channels")
    take("square", rank, rank)
    take("moved", out, rank)
    drop("square")
    take("on channels", channels, rank)
    drop("on channels", "turned")
    take("basis", out, rank)
    take("square", rank, rank)  # the other part of the QR decomposition
    drop("square", "moved")
    take("square", rank, rank)
    take("new right", rank, width)
    drop("square")
    take("on channels", rank, channels)
    drop(
        "on channels",
        "basis",
        "new right",
        "left in fp32",
        "right in fp32",
        "channels in fp32",
        "M in fp32",
        "M",
    )


def _in_16_bits_from_32(formats: Formats, narrow: str, device: Device) -> Casting:
    """Products in autocast's format, of factors that themselves stay in fp32."""
    return Casting(narrow, {"master": "fp32"})


_OWN_STEP = Rule(keeps=_own_keeps, forward=_forward, backward=_own_backward, run=_run, unwind=_own_unwind)

SUBSPACE_LINEAR = Kind(
    name="subspace_linear",
    summary="x·(L·R)ᵀ + b, where L and R take a step of subspace iteration in the backward pass",
    shape=_shape,
    plain=_OWN_STEP,
    packed=_OWN_STEP.packed(),
    autocast=_in_16_bits_from_32,
    casts_itself=True,
)
