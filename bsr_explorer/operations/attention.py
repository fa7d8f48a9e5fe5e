"""Attention: one fused kernel, or products with an explicit softmax.

The products Q·Kᵀ and P·V count forward; backward, the explicit ("math") path does twice the forward's work, and the
fused kernel 2.5 times, for it recomputes the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from bsr_explorer.devices import Device
from bsr_explorer.errors import UserError
from bsr_explorer.operations.kind import Casting, Formats, Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, kept, own, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH

CUDNN_PLAN = 256
"""Bytes that cuDNN's kernels take on the way, beside numbers of the backward pass."""

TILE = 64
"""Rows, and columns, of the gradients that the memory-efficient kernel adds up at once."""


def _shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, 3·D) → (B, N, D)."""
    batch, tokens, width3 = reads[0].shape
    return (batch, tokens, width3 // 3)


def _keeps(c: Context) -> list[Kept]:
    """Fused: q, k, v as views of one storage, the output and the log-sum-exp of each row; and what is added to the
    scores, if something is.

    Explicit: scaled q, k, v as the batched product copies them, and the softmax. With one image or one
    head, k and v need no copy, so that they stay views which hold the whole qkv storage.
    """
    if not c.needs[0]:
        return []
    qkv, bias = kept(c.reads[0]), [kept(bias) for bias in c.reads[1:]]
    if not explicit(c):
        random = [own(c, name, (), "int64") for name in _random_state(c)]
        return [*bias, qkv, kept(c.writes), own(c, "logsumexp", _logsumexp_shape(c)), *random]
    dtype = c.writes.dtype
    probabilities = [own(c, "softmax", _matrix(c), softmax_dtype(c))]
    if softmax_dtype(c) != dtype:
        probabilities.append(own(c, "probabilities", _matrix(c), dtype))
    query = own(c, "query", c.writes.shape, dtype)
    if runs_on_views(c):
        return [query, kept(c.reads[0], c.writes.shape), *probabilities]
    return [query, *(own(c, part, c.writes.shape, dtype) for part in ("key", "value")), *probabilities]


def explicit(c: Context) -> bool:
    """Whether it runs as products with an explicit softmax."""
    return bool(c.op.attrs["path"] == "math")


def _logsumexp_shape(c: Context) -> Shape:
    """The memory-efficient CUDA kernel pads the rows to a multiple of 32."""
    (batch, tokens, _), heads = c.reads[0].shape, c.op.attrs["heads"]
    return (batch, heads, -(-tokens // 32) * 32 if c.op.attrs["path"] == "efficient" else tokens)


def _random_state(c: Context) -> tuple[str, ...]:
    """What a CUDA kernel for 16 bits makes for dropout, and autograd keeps, even where nothing is dropped."""
    return ("seed", "offset") if c.op.attrs["path"] in ("cudnn", "flash") else ()


def softmax_dtype(c: Context) -> str:
    """Number format of the softmax."""
    return str(c.op.attrs.get("softmax", c.writes.dtype))


def runs_on_views(c: Context) -> bool:
    """Whether the batched product takes q, k and v as they are."""
    return c.reads[0].shape[0] == 1 or c.op.attrs["heads"] == 1


def _matrix(c: Context) -> Shape:
    """(B, H, N, N)."""
    batch, tokens, _ = c.reads[0].shape
    return (batch, c.op.attrs["heads"], tokens, tokens)


def _matrix_bytes(c: Context, dtype: str) -> int:
    return prod(_matrix(c)) * WIDTH[dtype]


def _run(c: Context, m: Forward) -> None:
    if explicit(c):
        _run_math(c, m)
        return
    path, random = c.op.attrs["path"], [c.own(name) for name in _random_state(c)]
    for name in random:
        m.take(name, WIDTH["int64"])
    write(c, m)
    if c.needs[0] or path not in ("cudnn", "efficient"):  # these two leave it out where nobody needs it
        m.take(c.own("logsumexp"), prod(_logsumexp_shape(c)) * WIDTH["fp32"])
    if path == "cudnn":
        m.scratch(CUDNN_PLAN)
    m.drop(c.own("logsumexp"), *random)


def _run_math(c: Context, m: Forward) -> None:
    """As timm computes it; ``scaled`` and ``softmax`` are locals that live until attention returns."""
    size, dtype = c.writes.bytes, c.writes.dtype
    if c.needs[0]:
        m.keep_number(c.own("scale"), c.device.number)
    for name in ("query",) if runs_on_views(c) else ("scaled", "query", "key"):
        m.take(c.own(name), size)
    m.take(c.own("scores"), _matrix_bytes(c, dtype))
    if not runs_on_views(c):
        m.drop(c.own("query"), c.own("key"))
    if len(c.reads) > 1:
        m.take(c.own("sums"), _matrix_bytes(c, dtype))
        m.drop(c.own("scores"))
    softmax = softmax_dtype(c)
    if softmax != dtype:
        m.take(c.own("wide scores"), _matrix_bytes(c, softmax))
    m.take(c.own("softmax"), _matrix_bytes(c, softmax))
    m.drop(c.own("wide scores"), c.own("scores" if len(c.reads) == 1 else "sums"))
    if softmax != dtype:
        m.take(c.own("probabilities"), _matrix_bytes(c, dtype))
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
    if explicit(c):
        _unwind_math(c, b)
        return
    size = c.writes.bytes
    gradients = [c.own(f"gradient of {part}") for part in "qkv"]
    for name in gradients:
        b.take(name, size)
    _backward_scratch(c, b)
    b.end_call()
    random = [c.own(name) for name in reversed(_random_state(c))]
    bias = [bias.storage for bias in c.reads[1:]]
    b.end_node(*bias, c.reads[0].storage, c.own("logsumexp"), c.writes.name, *random)
    _lay_together(c, b, gradients)


def _backward_scratch(c: Context, b: Backward) -> None:
    """What a kernel takes on the way, by torch's own code and as recorded on a Hopper; nothing on a CPU.

    The memory-efficient kernel adds up the gradients of queries tile by tile. In fp32 it is given, for each row, the
    sum of the output times its gradient. cuDNN's adds up the gradients of queries in fp32, and so does flash
    attention, in rows rounded up to 128 and heads to 32.
    """
    path, heads, (batch, tokens, width) = c.op.attrs["path"], c.op.attrs["heads"], c.writes.shape
    rows = batch * heads * tokens * WIDTH["fp32"]
    if path == "efficient":
        narrow = WIDTH[c.writes.dtype] < WIDTH["fp32"]
        if not narrow:
            b.take(c.own("product"), c.writes.bytes)
            b.take(c.own("sum"), rows)
        b.take(c.own("delta"), rows)
        b.drop(c.own("sum"), c.own("product"))
        tiles = -(-tokens // TILE) * -(-(width // heads) // TILE)
        b.take(c.own("workspace"), batch * heads * tiles * (TILE * TILE + 4) * WIDTH["fp32"])
        b.drop(c.own("delta"), c.own("workspace"))
    elif path == "cudnn":
        b.scratch(rows * (width // heads) + rows + CUDNN_PLAN)
    elif path == "flash":
        rows = batch * heads * _up(tokens, 128) * WIDTH["fp32"]
        b.scratch(rows, rows * _up(width // heads, 32))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _unwind_math(c: Context, b: Backward) -> None:
    size, dtype, softmax = c.writes.bytes, c.writes.dtype, softmax_dtype(c)
    q, k, v = (c.own(f"gradient of {part}") for part in "qkv")
    scores, by_head = c.own("gradient of scores"), c.own("gradient by head")
    if c.op.attrs["heads"] > 1:
        b.take(by_head, size)
        b.end_node()
    b.bring_back(c.own("softmax"), c.own("probabilities"), c.own("value"), c.reads[0].storage)
    b.take(v, size)
    b.take(scores, _matrix_bytes(c, dtype))
    b.end_node(c.own("probabilities"), c.own("value"))
    b.drop(by_head)
    if softmax != dtype:
        b.take(c.own("wide gradient"), _matrix_bytes(c, softmax))
        b.drop(scores)
    b.bring_back(c.own("softmax"))
    b.take(c.own("gradient through softmax"), _matrix_bytes(c, softmax))
    b.scratch(*c.device.softmax_scratch(_matrix_bytes(c, softmax)))
    b.drop(scores, c.own("wide gradient"))
    b.end_node(c.own("softmax"))
    if softmax != dtype:
        b.take(c.own("narrow gradient"), _matrix_bytes(c, dtype))
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
    return _forward(c) * 2 if explicit(c) else _forward(c) * 5 // 2


# --- packed -------------------------------------------------------------------------------------------


def _keeps_packed(c: Context) -> list[Kept]:
    """q, k and v as one tensor; and the softmax, if there is one.

    Raises:
        UserError: something is added to the scores.
    """
    if len(c.reads) > 1:
        raise UserError(
            f"{c.op.name}: attention to which sizes of tokens are added cannot pack what it keeps; leave "
            "tome(proportional=True) out, or what stores attention otherwise"
        )
    if not c.needs[0]:
        return []
    softmax = [own(c, "softmax", _matrix(c), c.writes.dtype)] if explicit(c) else []
    return [kept(c.reads[0]), *softmax]


def _backward_packed(c: Context) -> int:
    """The fused kernel runs forward once more."""
    return _backward(c) + _forward(c) * (c.needs[0] and not explicit(c))


def _run_packed(c: Context, m: Forward) -> None:
    """Products copy queries, keys and values side by side, unless they are so already."""
    if not explicit(c):
        _run(c, m)
        return
    size, scores, views = c.writes.bytes, _matrix_bytes(c, c.writes.dtype), runs_on_views(c)
    for name in ("scaled",) if views else ("scaled", "query", "key"):
        m.take(c.own(name), size)
    m.take(c.own("scores"), scores)
    m.drop(c.own("query"), c.own("key"), c.own("scaled"))
    m.take(c.own("softmax"), scores)
    m.drop(c.own("scores"))
    if not views:
        m.take(c.own("value"), size)
    if c.op.attrs["heads"] > 1:
        m.take(c.own("by head"), size)
        m.drop(c.own("value"))
    write(c, m)
    m.drop(c.own("by head"), c.own("value"))
    m.pack(c.own("softmax"))
    m.drop(c.own("softmax"))


def _unwind_packed(c: Context, b: Backward) -> None:
    gradients = [c.own(f"gradient of {part}") for part in "qkv"]
    if explicit(c):
        _unwind_explicit_packed(c, b, *gradients)
    else:
        b.bring_back(c.reads[0].storage)
        b.take(c.own("output again"), c.writes.bytes)
        b.take(c.own("logsumexp again"), prod(_logsumexp_shape(c)) * WIDTH["fp32"])
        for name in gradients:
            b.take(name, c.writes.bytes)
        _backward_scratch(c, b)
        b.drop(c.own("output again"), c.own("logsumexp again"))
    b.bring_back()
    b.give(0)
    b.drop(*gradients)
    b.end_call()


def _unwind_explicit_packed(c: Context, b: Backward, of_q: str, of_k: str, of_v: str) -> None:
    size, scores, views = c.writes.bytes, _matrix_bytes(c, c.writes.dtype), runs_on_views(c)

    def side_by_side(name: str) -> None:
        if not views:
            b.take(c.own(name), size)

    b.bring_back(c.reads[0].storage, c.own("softmax"))
    side_by_side("gradient by head")
    b.take(of_v, size)
    side_by_side("value")
    b.take(c.own("gradient of softmax"), scores)
    b.drop(c.own("value"), c.own("gradient by head"))
    b.take(c.own("gradient of scores"), scores)
    b.scratch(*c.device.softmax_scratch(scores))
    b.drop(c.own("gradient of softmax"))
    b.forget(c.own("softmax"))
    side_by_side("key")
    b.take(of_q, size)
    b.drop(c.own("key"))
    b.take(c.own("scaled"), size)
    if not views:
        side_by_side("query")
        b.drop(c.own("scaled"))
    b.take(of_k, size)
    b.drop(c.own("scaled"), c.own("query"), c.own("gradient of scores"))


# --- number formats and kernels -------------------------------------------------------------------------


def _autocast(formats: Formats, narrow: str, device: Device) -> Casting:
    return Casting(None, {"softmax": device.softmax or narrow})


def _on_device(op: Op, formats: Formats, device: Device) -> Mapping[str, Any]:
    if len(op.reads) > 1 and device.caches and op.attrs["path"] != "math":
        raise UserError(
            f"--attention: {op.attrs['path']}: on {device.title} a fused kernel takes the sizes of tokens that "
            "tome(proportional=True) adds as a padded copy, which is not followed; choose math, or leave proportional "
            "out"
        )
    return {"path": device.path(op.attrs["path"], formats[0], op.packs)}


_ATTENTION = Rule(
    keeps=_keeps,
    forward=_forward,
    backward=_backward,
    run=_run,
    unwind=_unwind,
    keeps_results=True,
    several_nodes=explicit,
)

ATTENTION = Kind(
    name="attention",
    summary="softmax(Q·Kᵀ [+ bias])·V of queries, keys and values in one tensor (B, N, 3·D)",
    shape=_shape,
    plain=_ATTENTION,
    packed=_ATTENTION.packed(
        keeps=_keeps_packed, backward=_backward_packed, run=_run_packed, unwind=_unwind_packed
    ),
    autocast=_autocast,
    on_device=_on_device,
    stays=0,
)
