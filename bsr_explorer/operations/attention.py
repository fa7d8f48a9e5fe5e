"""Attention: one fused kernel, or products with an explicit softmax; and the class token's attention."""

from __future__ import annotations

from bsr_explorer.operations.kind import Backward, Context, Forward, Kept, Rule, kept, own, write
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


# --- the class token's attention ------------------------------------------------------------------------


def scored(c: Context) -> bool:
    """Whether gradients pass through the class token's attention."""
    return c.needs[0] and not c.op.attrs["detached"]


def class_attention_keeps(c: Context, keys: Kept) -> list[Kept]:
    """The class token's query, its attention, and the keys."""
    batch, tokens, width3 = c.reads[0].shape
    rows = (batch * c.op.attrs["heads"], tokens, 1)
    return [
        own(c, "query", (batch, width3 // 3), c.reads[0].dtype),
        own(c, "softmax", rows, _softmax_dtype(c)),
        keys,
    ]


def _class_keeps(c: Context) -> list[Kept]:
    """The keys are a part of qkv, which a fused kernel keeps anyway. An explicit softmax does not, and they are kept as
    they were copied; with one image or one head, they need no copy."""
    if not scored(c):
        return []
    batch, tokens, width3 = c.reads[0].shape
    shape = (batch, tokens, width3 // 3)
    if c.op.attrs["path"] == "math" and not runs_on_views(c):
        return class_attention_keeps(c, own(c, "key", shape, c.reads[0].dtype))
    return class_attention_keeps(c, kept(c.reads[0], shape))


def _class_forward(c: Context) -> int:
    """One query a head, the class token's, times all keys."""
    batch, tokens, width3 = c.reads[0].shape
    return FLOPS_PER_MAC * batch * tokens * width3 // 3


def _class_backward(c: Context) -> int:
    """The gradient of the query, a product with all keys. (That of a key is the query times a number.)"""
    return _class_forward(c) * scored(c)


def _class_rows(c: Context, dtype: str) -> int:
    """Bytes of one number for each image, head and token."""
    batch, tokens, _ = c.reads[0].shape
    return int(batch * c.op.attrs["heads"] * tokens * WIDTH[dtype])


def _class_run(c: Context, m: Forward) -> None:
    batch, tokens, width3 = c.reads[0].shape
    size = batch * width3 // 3 * WIDTH[c.reads[0].dtype]
    m.take(c.own("query"), size)
    if not runs_on_views(c):
        m.take(c.own("key"), tokens * size)
    m.take(c.own("products"), _class_rows(c, c.reads[0].dtype))
    if not (c.op.attrs["path"] == "math" and scored(c)):
        m.drop(c.own("key"))
    m.take(c.own("softmax"), _class_rows(c, _softmax_dtype(c)))
    m.drop(c.own("products"))
    write(c, m)
    m.drop(c.own("query"), c.own("key"), c.own("softmax"))


def _class_unwind(c: Context, b: Backward) -> None:
    batch, tokens, width3 = c.reads[0].shape
    size, wide, narrow = batch * width3 // 3 * WIDTH[c.reads[0].dtype], _softmax_dtype(c), c.reads[0].dtype
    rows = c.own("gradient of products")
    b.take(c.own("gradient of softmax"), _class_rows(c, wide))
    b.take(c.own("share of a head"), c.writes.bytes)
    b.drop(c.own("share of a head"))
    b.take(rows, _class_rows(c, wide))
    b.drop(c.own("gradient of softmax"))
    if wide != narrow:
        b.take(c.own("narrow gradient"), _class_rows(c, narrow))
        b.drop(rows)
        rows = c.own("narrow gradient")
    if c.op.packs:
        b.bring_back(c.reads[0].storage)
    if not runs_on_views(c) and (c.op.packs or c.op.attrs["path"] != "math"):
        b.take(c.own("key again"), tokens * size)
        if c.op.packs:
            b.bring_back()
    b.take(c.own("gradient of query"), size)
    b.drop(c.own("key again"))
    if c.op.packs:
        b.bring_back()
    b.give(0)
    b.end_call()
    b.drop(c.own("gradient of query"), rows)


CLASS_ATTENTION = Rule(
    _class_keeps, _class_forward, _class_backward, _class_run, _class_unwind, keeps_results=True
)
