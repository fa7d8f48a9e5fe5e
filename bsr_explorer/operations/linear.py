"""Matrix products with weights, and casts between number formats."""

from __future__ import annotations

from bsr_explorer.operations.kind import Backward, Context, Kept, Rule, give_all, kept, nothing, write, zero
from bsr_explorer.units import FLOPS_PER_MAC


def _keeps(c: Context) -> list[Kept]:
    """The input if the weight trains; the weight if the input needs a gradient."""
    reads = [kept(c.reads[0])] if c.trains("weight") else []
    return [*reads, kept(c.params["weight"])] if c.needs[0] else reads


def _forward(c: Context) -> int:
    rows = c.reads[0].numel // c.reads[0].shape[-1]
    return FLOPS_PER_MAC * rows * c.params["weight"].numel


def _backward(c: Context) -> int:
    return _forward(c) * (c.trains("weight") + c.needs[0])


def _unwind(c: Context, b: Backward) -> None:
    """The bias's gradient is summed up after the node's own call, by the engine."""
    if c.needs[0]:
        b.give(0)
    if c.trains("weight"):
        b.give_part("weight")
    b.end_call()
    if c.trains("bias"):
        b.give_part("bias")


LINEAR = Rule(_keeps, _forward, _backward, write, _unwind)


def _patch_keeps(c: Context) -> list[Kept]:
    """A convolution keeps its input and weight as soon as it is recorded, even for its bias alone."""
    return [kept(c.reads[0]), kept(c.params["weight"])] if c.live else []


def _patch_forward(c: Context) -> int:
    batch, tokens, _ = c.writes.shape
    return FLOPS_PER_MAC * batch * tokens * c.params["weight"].numel


def _patch_backward(c: Context) -> int:
    return _patch_forward(c) * (c.trains("weight") + c.needs[0])


def _patch_unwind(c: Context, b: Backward) -> None:
    """oneDNN makes the weight's gradient beside the bias's, whether it is wanted or not."""
    give_all(c, b)
    if not c.trains("weight"):
        b.take(c.own("unwanted gradient"), c.params["weight"].bytes)
        b.drop(c.own("unwanted gradient"))


PATCH_EMBED = Rule(_patch_keeps, _patch_forward, _patch_backward, write, _patch_unwind)


def _cast_part(c: Context, b: Backward) -> None:
    b.give_part("value")


CAST = Rule(nothing, zero, zero, write, give_all)
CAST_PARAMETER = Rule(nothing, zero, zero, write, _cast_part)
