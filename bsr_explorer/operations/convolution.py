"""A convolution of patch tokens on their grid, of stride 1, in groups of channels; of one channel each: depthwise.

It is run by a function that keeps its input, if the weight trains. FLOPs of a group are those of its own channels,
forward and backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.operations.kind import Kind, in_16_bits
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, kept, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC


def _shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, in) → (B, N, out), of a weight (out, in / groups, k, k)."""
    return (*reads[0].shape[:-1], params["weight"].shape[0])


def _keeps(c: Context) -> list[Kept]:
    """The input if the weight trains; the weight if the input needs a gradient."""
    reads = [kept(c.reads[0])] if c.trains("weight") else []
    return [*reads, kept(c.params["weight"])] if c.needs[0] else reads


def _prefix(c: Context) -> int:
    """Tokens before the patches, which stay as they are."""
    return int(c.op.attrs["prefix"])


def _share(c: Context, tensor: Tensor) -> int:
    """Bytes of a tensor's patches."""
    tokens = tensor.shape[1]
    return tensor.bytes * (tokens - _prefix(c)) // tokens


def _forward(c: Context) -> int:
    batch, tokens, _ = c.writes.shape
    return FLOPS_PER_MAC * batch * (tokens - _prefix(c)) * c.params["weight"].numel


def _backward(c: Context) -> int:
    return _forward(c) * (c.trains("weight") + c.needs[0])


def _run(c: Context, m: Forward) -> None:
    """What was convolved is laid behind the prefix tokens, if there are any."""
    if _prefix(c):
        m.take(c.own("convolved"), _share(c, c.writes))
    write(c, m)
    m.drop(c.own("convolved"))


def _unwind(c: Context, b: Backward) -> None:
    """Both gradients are made at once. The weight's comes channels last, and is laid as the weight is, which is the
    same where a group has one channel."""
    weight, ahead = c.params["weight"], c.needs[0] and _prefix(c)
    laid = c.trains("weight") and weight.shape[1] > 1
    if ahead:
        b.take(c.own("gradient of patches"), _share(c, c.reads[0]))
    elif c.needs[0]:
        b.give(0)
    if laid:
        b.take(c.own("gradient by channel"), weight.bytes)
    if c.trains("weight"):
        b.give_part("weight")
    b.drop(c.own("gradient by channel"))
    if ahead:
        b.give(0)
        b.drop(c.own("gradient of patches"))
    b.end_call()


CONVOLUTION = Kind(
    name="convolution",
    summary="a convolution of patch tokens on their grid, in groups of channels",
    shape=_shape,
    plain=Rule(
        keeps=_keeps, forward=_forward, backward=_backward, run=_run, unwind=_unwind, keeps_results=True
    ),
    autocast=in_16_bits,
    casts_itself=True,
)
