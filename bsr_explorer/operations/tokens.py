"""Operations on tokens: adding the prefix, dropping, pooling; and the loss at their end."""

from __future__ import annotations

from bsr_explorer.operations.kind import (
    Backward,
    Context,
    Forward,
    Kept,
    Rule,
    give_all,
    nothing,
    own,
    view,
    write,
    zero,
)
from bsr_explorer.tape import kept_tokens
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH


def _prefix_unwind(c: Context, b: Backward) -> None:
    """What was concatenated gets a part of the gradient; a token's is summed over the images, if there are
    several."""
    for part in c.params:
        if c.trains(part) and c.writes.shape[0] == 1:
            b.view_part(part)
        elif c.trains(part):
            b.give_part(part)
    if c.needs[0] and c.reads[0].dtype == c.writes.dtype:
        b.pass_on(0)
    elif c.needs[0]:
        b.give(0)


PREFIX_TOKENS = Rule(nothing, zero, zero, write, _prefix_unwind)

# --- dropping tokens ------------------------------------------------------------------------------------


def _dropped(c: Context) -> tuple[int, int, int]:
    """(batch, patch tokens in, patch tokens kept)."""
    batch, tokens, _ = c.reads[0].shape
    patches = tokens - c.op.attrs["prefix"]
    return batch, patches, kept_tokens(patches, c.op.attrs["keep"])


def _drop_keeps(c: Context) -> list[Kept]:
    """The 32-bit positions of the kept tokens; if others are fused, theirs too, and their weights; if these need a
    gradient, the fused tokens themselves."""
    batch, patches, count = _dropped(c)
    if not any(c.needs):
        return []
    if not c.op.attrs["fuse"]:
        return [own(c, "positions", (batch, count), "int32")]
    dtype, width = c.reads[0].dtype, c.reads[0].shape[-1]
    keeps = [
        own(c, "positions", (batch, patches), "int32"),
        own(c, "weights", (batch, patches - count), dtype),
    ]
    return [*keeps, own(c, "dropped", (batch, patches - count, width), dtype)] if c.needs[1] else keeps


def _fused_product(c: Context) -> int:
    """FLOPs of the product of the weights with the dropped tokens, or of its gradient by one of them."""
    batch, patches, count = _dropped(c)
    return FLOPS_PER_MAC * batch * (patches - count) * c.reads[0].shape[-1] if c.op.attrs["fuse"] else 0


def _drop_backward(c: Context) -> int:
    return _fused_product(c) * sum(c.needs)


def _drop_run(c: Context, m: Forward) -> None:
    batch, patches, count = _dropped(c)
    width, scores = c.reads[0].shape[-1] * WIDTH[c.reads[0].dtype], WIDTH[c.reads[1].dtype]
    fuse = c.op.attrs["fuse"]
    order = patches if fuse else count
    m.take(c.own("best values"), batch * order * scores)
    m.take(c.own("best"), batch * order * WIDTH["int64"])
    m.take(c.own("images"), batch * WIDTH["int64"])
    for name in ("in image", "in batch"):
        m.take(c.own(name), batch * order * WIDTH["int64"])
    m.drop(c.own("in image"))
    m.take(c.own("positions"), batch * order * WIDTH["int32"])
    m.drop(c.own("in batch"))
    if fuse and batch > 1:
        m.take(c.own("where kept"), batch * count * WIDTH["int32"])
    m.take(c.own("selected"), batch * count * width)
    m.drop(c.own("where kept"))
    if fuse:
        m.take(c.own("weights"), batch * (patches - count) * WIDTH[c.reads[0].dtype])
        m.drop(c.own("best values"), c.own("best"), c.own("images"))
        if batch > 1:
            m.take(c.own("where dropped"), batch * (patches - count) * WIDTH["int32"])
        m.take(c.own("dropped"), batch * (patches - count) * width)
        m.drop(c.own("where dropped"))
        m.take(c.own("fused"), batch * width)
    write(c, m)
    m.drop(*(c.own(name) for name in ("best values", "best", "images", "selected", "fused")))
    m.drop(*(c.own(name) for name in ("positions", "weights", "dropped")))


def _drop_unwind(c: Context, b: Backward) -> None:
    """One tensor of all tokens, into which the gradients of the kept tokens are copied (side by side first, if there
    are several images) and then those of the dropped ones."""
    batch, patches, count = _dropped(c)
    dtype, tokens = c.reads[0].dtype, c.reads[0].shape[1]
    width = c.reads[0].shape[-1] * WIDTH[dtype]
    b.give(0)
    if batch > 1:
        b.take(c.own("gradient of selected"), batch * count * width)
    if batch > 1 and c.op.attrs["fuse"]:
        b.take(c.own("where kept"), batch * count * WIDTH["int32"])
    b.drop(c.own("gradient of selected"), c.own("where kept"))
    if c.op.attrs["fuse"]:
        if batch > 1:
            b.take(c.own("where dropped"), batch * (patches - count) * WIDTH["int32"])
        b.take(c.own("gradient of dropped"), batch * (patches - count) * width)
        b.drop(c.own("gradient of dropped"))
    if c.needs[1]:
        b.take(c.own("gradient by token"), batch * tokens * WIDTH[dtype])
        b.take(c.own("gradient of weights"), batch * (patches - count) * WIDTH[dtype])
        b.drop(c.own("gradient of weights"))
        b.give(1)
    b.end_call()
    b.drop(c.own("gradient by token"), c.own("where dropped"))


DROP_TOKENS = Rule(_drop_keeps, _fused_product, _drop_backward, _drop_run, _drop_unwind, keeps_results=True)

# --- pooling --------------------------------------------------------------------------------------------

SELECT_TOKEN = Rule(nothing, zero, zero, view, give_all)


def _mean_unwind(c: Context, b: Backward) -> None:
    prefix = c.op.attrs["prefix"]
    if prefix:
        tokens = c.reads[0].shape[1]
        b.take(c.own("spread gradient"), c.reads[0].bytes * (tokens - prefix) // tokens)
        b.end_node()
    b.give(0)
    b.drop(c.own("spread gradient"))


MEAN_TOKENS = Rule(nothing, zero, zero, write, _mean_unwind)

# --- loss -----------------------------------------------------------------------------------------------


def _loss_keeps(c: Context) -> list[Kept]:
    """Log-probabilities and the sum of class weights. (The labels are an input.)"""
    if not c.needs[0]:
        return []
    scores = c.reads[0]
    return [own(c, "log_softmax", scores.shape, scores.dtype), own(c, "total_weight", (), scores.dtype)]


def _loss_run(c: Context, m: Forward) -> None:
    m.take(c.own("log_softmax"), c.reads[0].bytes)
    write(c, m)
    m.take(c.own("total_weight"), WIDTH[c.reads[0].dtype])
    m.drop(c.own("log_softmax"), c.own("total_weight"))


def _loss_unwind(c: Context, b: Backward) -> None:
    b.take(c.own("gradient of log_softmax"), c.reads[0].bytes)
    b.end_node(c.own("total_weight"))
    b.give(0)
    b.drop(c.own("gradient of log_softmax"))


CROSS_ENTROPY = Rule(_loss_keeps, zero, zero, _loss_run, _loss_unwind, keeps_results=True)
