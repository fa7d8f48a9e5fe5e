"""Matrix products with a weight that is the product of two factors, whose input is kept as a Tucker decomposition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from bsr_explorer.operations.kind import Kind, in_16_bits
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
