"""Attention: one fused kernel, or products with an explicit softmax; and the class token's attention."""

from __future__ import annotations

from bsr_explorer.cost.rules.base import (
    Backward,
    Context,
    Forward,
    Kept,
    Rule,
    kept,
    nothing,
    own,
    write,
    zero,
)
from bsr_explorer.tape import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH

SCALAR = 8
"""Bytes of a Python number that an operation holds as a tensor."""


def _keeps(c: Context) -> list[Kept]:
    """Fused: q, k, v as views of one storage, the output and the log-sum-exp of each row.

    Explicit: scaled q, k, v as the batched product copies them, and the softmax. With one image or one
    head, k and v need no copy, so that they stay views which hold the whole qkv storage.
    """
    if not c.needs[0]:
        return []
    qkv = kept(c.reads[0])
    if c.op.attrs["path"] != "math":
        return [qkv, kept(c.writes), own(c, "logsumexp", logsumexp_shape(c))]
    (batch, tokens, _), heads = c.reads[0].shape, c.op.attrs["heads"]
    dtype = c.writes.dtype
    probabilities = [own(c, "softmax", (batch, heads, tokens, tokens), _softmax_dtype(c))]
    if _softmax_dtype(c) != dtype:
        probabilities.append(own(c, "probabilities", (batch, heads, tokens, tokens), dtype))
    query = own(c, "query", c.writes.shape, dtype)
    if runs_on_views(c):
        return [query, kept(c.reads[0], c.writes.shape), *probabilities]
    return [query, *(own(c, part, c.writes.shape, dtype) for part in ("key", "value")), *probabilities]


def logsumexp_shape(c: Context) -> Shape:
    """The memory-efficient CUDA kernel pads the rows to a multiple of 32."""
    (batch, tokens, _), heads = c.reads[0].shape, c.op.attrs["heads"]
    return (batch, heads, -(-tokens // 32) * 32 if c.op.attrs["path"] == "efficient" else tokens)


def _softmax_dtype(c: Context) -> str:
    return str(c.op.attrs.get("softmax", c.writes.dtype))


def runs_on_views(c: Context) -> bool:
    """Whether the batched product takes q, k and v as they are."""
    return c.reads[0].shape[0] == 1 or c.op.attrs["heads"] == 1


def attention_matrix(c: Context) -> int:
    """Elements of the attention matrices."""
    batch, tokens, _ = c.reads[0].shape
    return int(batch * c.op.attrs["heads"] * tokens * tokens)


def _run(c: Context, m: Forward) -> None:
    if c.op.attrs["path"] == "math":
        _run_math(c, m)
        return
    write(c, m)
    size = WIDTH["fp32"]
    for length in logsumexp_shape(c):
        size *= length
    m.take(c.own("logsumexp"), size)
    m.drop(c.own("logsumexp"))


def _run_math(c: Context, m: Forward) -> None:
    """As timm computes it; ``scaled`` and ``softmax`` are locals that live until attention returns."""
    size, width = c.writes.bytes, WIDTH[c.writes.dtype]
    if c.needs[0]:
        m.keep_number(c.own("scale"), SCALAR)
    if runs_on_views(c):
        m.take(c.own("query"), size)
    else:
        m.take(c.own("scaled"), size)
        m.take(c.own("query"), size)
        m.take(c.own("key"), size)
    m.take(c.own("scores"), attention_matrix(c) * width)
    if not runs_on_views(c):
        m.drop(c.own("query"), c.own("key"))
    softmax = _softmax_dtype(c)
    if softmax != c.writes.dtype:
        m.take(c.own("wide scores"), attention_matrix(c) * WIDTH[softmax])
    m.take(c.own("softmax"), attention_matrix(c) * WIDTH[softmax])
    m.drop(c.own("scores"), c.own("wide scores"))
    if softmax != c.writes.dtype:
        m.take(c.own("probabilities"), attention_matrix(c) * width)
    if not runs_on_views(c):
        m.take(c.own("value"), size)
    if c.op.attrs["heads"] == 1:
        write(c, m)
    else:
        m.take(c.own("by head"), size)
        m.drop(c.own("value"), c.own("probabilities"))
        write(c, m)
        m.drop(c.own("by head"))
    m.drop(c.own("value"), c.own("probabilities"))


def _unwind(c: Context, b: Backward) -> None:
    if c.op.attrs["path"] == "math":
        _unwind_math(c, b)
        return
    size = c.writes.bytes
    gradients = [c.own(f"gradient of {part}") for part in "qkv"]
    for name in gradients:
        b.take(name, size)
    b.end_call()
    b.end_node(c.reads[0].storage, c.writes.name, c.own("logsumexp"))
    _lay_together(c, b, gradients)


def _unwind_math(c: Context, b: Backward) -> None:
    size, width, wide = c.writes.bytes, WIDTH[c.writes.dtype], WIDTH[_softmax_dtype(c)]
    q, k, v = (c.own(f"gradient of {part}") for part in "qkv")
    scores, by_head = c.own("gradient of scores"), c.own("gradient by head")
    if c.op.attrs["heads"] > 1:
        b.take(by_head, size)
        b.end_node()
    b.bring_back(c.own("softmax"), c.own("probabilities"), c.own("value"), c.reads[0].storage)
    b.take(v, size)
    b.take(scores, attention_matrix(c) * width)
    b.end_node(c.own("probabilities"), c.own("value"))
    b.drop(by_head)
    if wide != width:
        b.take(c.own("wide gradient"), attention_matrix(c) * wide)
        b.drop(scores)
    b.bring_back(c.own("softmax"))
    b.take(c.own("gradient through softmax"), attention_matrix(c) * wide)
    b.drop(scores, c.own("wide gradient"))
    b.end_node(c.own("softmax"))
    if wide != width:
        b.take(c.own("narrow gradient"), attention_matrix(c) * width)
        b.drop(c.own("gradient through softmax"))
    b.bring_back(c.own("query"), c.own("key"), c.reads[0].storage)
    b.take(c.own("gradient of scaled q"), size)
    b.take(k, size)
    b.drop(c.own("gradient through softmax"), c.own("narrow gradient"))
    b.end_node(c.own("query"), c.own("key"), c.reads[0].storage)
    b.take(q, size)
    b.drop(c.own("gradient of scaled q"), c.own("scale"))
    _lay_together(c, b, [q, k, v])


def _lay_together(c: Context, b: Backward, gradients: list[str]) -> None:
    """Gradients of q, k and v are stacked, then copied into the order of the qkv tensor."""
    stack = c.own("stacked gradients")
    b.take(stack, c.reads[0].bytes)
    b.drop(*gradients)
    b.give(0)
    b.drop(stack)


def _forward(c: Context) -> int:
    batch, tokens, width = c.writes.shape
    return 2 * FLOPS_PER_MAC * batch * tokens * tokens * width


def _backward(c: Context) -> int:
    if not c.needs[0]:
        return 0
    return _forward(c) * 2 if c.op.attrs["path"] == "math" else _forward(c) * 5 // 2


def _explicit(c: Context) -> bool:
    return bool(c.op.attrs["path"] == "math")


ATTENTION = Rule(_keeps, _forward, _backward, _run, _unwind, keeps_results=True, several_nodes=_explicit)


# --- the class token's attention, without a graph -------------------------------------------------------


def _class_forward(c: Context) -> int:
    """One query a head, the class token's, times all keys."""
    batch, tokens, width3 = c.reads[0].shape
    return FLOPS_PER_MAC * batch * tokens * width3 // 3


def _class_run(c: Context, m: Forward) -> None:
    (batch, tokens, width3), heads = c.reads[0].shape, c.op.attrs["heads"]
    width = WIDTH[c.reads[0].dtype]
    rows, softmax = batch * heads * tokens, WIDTH[c.op.attrs.get("softmax", c.reads[0].dtype)]
    m.take(c.own("query"), batch * width3 // 3 * width)
    if batch > 1 and heads > 1:
        m.take(c.own("key"), batch * tokens * width3 // 3 * width)
    m.take(c.own("scores"), rows * width)
    m.drop(c.own("key"))
    m.take(c.own("softmax"), rows * softmax)
    m.drop(c.own("scores"))
    write(c, m)
    m.drop(c.own("query"), c.own("softmax"))


def _no_unwind(c: Context, b: Backward) -> None:
    raise AssertionError("runs without a graph")


CLASS_ATTENTION = Rule(nothing, _class_forward, zero, _class_run, _no_unwind)
