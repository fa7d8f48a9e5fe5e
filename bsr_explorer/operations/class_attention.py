"""The class token's attention: a score for each patch token, by which tokens are dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.devices import Device
from bsr_explorer.operations.attention import explicit, runs_on_views, softmax_dtype
from bsr_explorer.operations.kind import Casting, Formats, Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, kept, own, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH


def _shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, 3·D) → (B, N − prefix)."""
    batch, tokens, _ = reads[0].shape
    return (batch, tokens - op.attrs["prefix"])


def _keeps_with(c: Context, keys: Kept) -> list[Kept]:
    """The class token's query, its attention, and the keys."""
    batch, tokens, width3 = c.reads[0].shape
    rows = (batch * c.op.attrs["heads"], tokens, 1)
    return [
        own(c, "query", (batch, width3 // 3), c.reads[0].dtype),
        own(c, "softmax", rows, softmax_dtype(c)),
        keys,
    ]


def _keeps(c: Context) -> list[Kept]:
    """The keys are a part of qkv, which a fused kernel keeps anyway. An explicit softmax does not, and they are kept as
    they were copied; with one image or one head, they need no copy."""
    if not c.needs[0]:
        return []
    batch, tokens, width3 = c.reads[0].shape
    shape = (batch, tokens, width3 // 3)
    if explicit(c) and not runs_on_views(c):
        return _keeps_with(c, own(c, "key", shape, c.reads[0].dtype))
    return _keeps_with(c, kept(c.reads[0], shape))


def _forward(c: Context) -> int:
    """One query a head, the class token's, times all keys."""
    batch, tokens, width3 = c.reads[0].shape
    return FLOPS_PER_MAC * batch * tokens * width3 // 3


def _backward(c: Context) -> int:
    """The gradient of the query, a product with all keys. (That of a key is the query times a number.)"""
    return _forward(c) * c.needs[0]


def _rows(c: Context, dtype: str) -> int:
    """Bytes of one number for each image, head and token."""
    batch, tokens, _ = c.reads[0].shape
    return int(batch * c.op.attrs["heads"] * tokens * WIDTH[dtype])


def _run(c: Context, m: Forward) -> None:
    batch, tokens, width3 = c.reads[0].shape
    size = batch * width3 // 3 * WIDTH[c.reads[0].dtype]
    m.take(c.own("query"), size)
    if not runs_on_views(c):
        m.take(c.own("key"), tokens * size)
    m.take(c.own("products"), _rows(c, c.reads[0].dtype))
    if not (explicit(c) and c.needs[0]):
        m.drop(c.own("key"))
    m.take(c.own("softmax"), _rows(c, softmax_dtype(c)))
    m.drop(c.own("products"))
    write(c, m)
    m.drop(c.own("query"), c.own("key"), c.own("softmax"))


def _unwind(c: Context, b: Backward) -> None:
    batch, tokens, width3 = c.reads[0].shape
    size, wide, narrow = batch * width3 // 3 * WIDTH[c.reads[0].dtype], softmax_dtype(c), c.reads[0].dtype
    rows = c.own("gradient of products")
    b.take(c.own("gradient of softmax"), _rows(c, wide))
    b.take(c.own("share of a head"), c.writes.bytes)
    b.drop(c.own("share of a head"))
    b.take(rows, _rows(c, wide))
    b.scratch(*c.device.softmax_scratch(_rows(c, wide)))
    b.drop(c.own("gradient of softmax"))
    if wide != narrow:
        b.take(c.own("narrow gradient"), _rows(c, narrow))
        b.drop(rows)
        rows = c.own("narrow gradient")
    if c.op.packs:
        b.bring_back(c.reads[0].storage)
    if not runs_on_views(c) and (c.op.packs or not explicit(c)):
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


def _keeps_packed(c: Context) -> list[Kept]:
    """The keys are in what attention has packed."""
    return _keeps_with(c, kept(c.reads[0])) if c.needs[0] else []


def _autocast(formats: Formats, narrow: str, device: Device) -> Casting:
    softmax = device.softmax or narrow
    return Casting(None, {"softmax": softmax, "dtype": softmax})


_CLASS_ATTENTION = Rule(
    keeps=_keeps, forward=_forward, backward=_backward, run=_run, unwind=_unwind, keeps_results=True
)

CLASS_ATTENTION = Kind(
    name="class_attention",
    summary="the class token's attention to each patch token, averaged over heads",
    shape=_shape,
    plain=_CLASS_ATTENTION,
    packed=_CLASS_ATTENTION.packed(keeps=_keeps_packed),
    autocast=_autocast,
)
