"""Operations on tokens: adding the prefix, dropping, pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bsr_explorer.devices import Device
from bsr_explorer.operations.kind import Casting, Formats, Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, own, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH

# --- the prefix -----------------------------------------------------------------------------------------


def _prefix_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """Tokens of (1, n, D) each before (B, N, D)."""
    batch, tokens, width = reads[0].shape
    return (batch, tokens + sum(p.shape[1] for p in params.values()), width)


def _prefix_unwind(c: Context, b: Backward) -> None:
    """What was concatenated gets a part of the gradient; a token's is summed over the images, if there are
    several."""
    casts = c.needs[0] and c.reads[0].dtype != c.writes.dtype
    if casts:
        b.give(0)
    for part in c.params:
        if c.trains(part) and c.writes.shape[0] == 1:
            b.view_part(part)
        elif c.trains(part):
            b.give_part(part)
    if c.needs[0] and not casts:
        b.pass_on(0)


def _prefix_autocast(formats: Formats, narrow: str, device: Device) -> Casting:
    """What is concatenated is cast to the widest format first, unless the device takes several at once."""
    return Casting() if device.concatenates_formats else Casting("fp32")


PREFIX_TOKENS = Kind(
    name="prefix_tokens",
    summary="the class token and registers, before the patch tokens",
    shape=_prefix_shape,
    plain=Rule(unwind=_prefix_unwind),
    autocast=_prefix_autocast,
)

# --- other tokens in the place of some ------------------------------------------------------------------


def _replace_unwind(c: Context, b: Backward) -> None:
    """The new tokens' gradient is summed over the images; that of the others is copied, and those that they took the
    place of get none."""
    if c.trains("tokens"):
        b.give_part("tokens")
    if c.needs[0]:
        b.give(0)
    b.end_call()


REPLACE_TOKENS = Kind(
    name="replace_tokens",
    summary="other tokens in the place of some",
    plain=Rule(unwind=_replace_unwind),
)

# --- dropping tokens ------------------------------------------------------------------------------------


def kept_tokens(patches: int, keep: float) -> int:
    """How many of ``patches`` tokens a keep rate keeps: ``ceil(keep · patches)`` (EViT's and BSR's rule).

    The product is rounded to 9 decimals first, so that 0.07 of 100 tokens is 7 and not, for the sake of a
    binary fraction, 8. However low the rate, one token stays.
    """
    return max(1, math.ceil(round(keep * patches, 9)))


def _drop_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, D) → (B, prefix + kept [+ 1 if fused], D)."""
    batch, tokens, width = reads[0].shape
    prefix = op.attrs["prefix"]
    return (batch, prefix + kept_tokens(tokens - prefix, op.attrs["keep"]) + op.attrs["fuse"], width)


def _dropped(c: Context) -> tuple[int, int, int]:
    """(batch, patch tokens in, patch tokens kept)."""
    batch, tokens, _ = c.reads[0].shape
    patches = tokens - c.op.attrs["prefix"]
    return batch, patches, kept_tokens(patches, c.op.attrs["keep"])


def _drop_keeps(c: Context) -> list[Kept]:
    """The 32-bit positions of the kept tokens; if others are fused, theirs too, and their weights, unless it is by
    their mean; if these need a gradient, the fused tokens themselves."""
    batch, patches, count = _dropped(c)
    if not any(c.needs):
        return []
    if not c.op.attrs["fuse"]:
        return [own(c, "positions", (batch, count), "int32")]
    dtype, width = c.reads[0].dtype, c.reads[0].shape[-1]
    keeps = [own(c, "positions", (batch, patches), "int32")]
    if not _by_mean(c):
        keeps.append(own(c, "weights", (batch, patches - count), dtype))
    return [*keeps, own(c, "dropped", (batch, patches - count, width), dtype)] if c.needs[1] else keeps


def _by_mean(c: Context) -> bool:
    """Whether a fused token is the plain mean of what is dropped, which has no weights."""
    return bool(c.op.attrs.get("mean"))


def _fused_product(c: Context) -> int:
    """FLOPs of the product of the weights with the dropped tokens, or of its gradient by one of them."""
    if not c.op.attrs["fuse"] or _by_mean(c):
        return 0
    batch, patches, count = _dropped(c)
    return FLOPS_PER_MAC * batch * (patches - count) * c.reads[0].shape[-1]


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
        if not _by_mean(c):
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
    if c.needs[0]:
        b.give(0)
        if batch > 1:
            b.take(c.own("gradient of selected"), batch * count * width)
        if batch > 1 and c.op.attrs["fuse"]:
            b.take(c.own("where kept"), batch * count * WIDTH["int32"])
        b.drop(c.own("gradient of selected"), c.own("where kept"))
    if c.op.attrs["fuse"]:
        if batch > 1:
            b.take(c.own("where dropped"), batch * (patches - count) * WIDTH["int32"])
        if _by_mean(c):
            b.take(c.own("share of gradient"), batch * width)
        if c.needs[0] and (batch > 1 or not _by_mean(c)):  # one image's share need not be copied
            b.take(c.own("gradient of dropped"), batch * (patches - count) * width)
        b.drop(c.own("share of gradient"), c.own("gradient of dropped"))
    if c.needs[1]:
        b.take(c.own("gradient by token"), batch * tokens * WIDTH[dtype])
        b.take(c.own("gradient of weights"), batch * (patches - count) * WIDTH[dtype])
        b.drop(c.own("gradient of weights"))
        b.give(1)
    b.end_call()
    b.drop(c.own("gradient by token"), c.own("where dropped"))


DROP_TOKENS = Kind(
    name="drop_tokens",
    summary="the patch tokens of the highest scores, and the others fused into one, or not",
    shape=_drop_shape,
    plain=Rule(
        keeps=_drop_keeps,
        forward=_fused_product,
        backward=_drop_backward,
        run=_drop_run,
        unwind=_drop_unwind,
        keeps_results=True,
    ),
    as_first=True,  # scores may be wider
)

# --- pooling --------------------------------------------------------------------------------------------


def _pooled_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, D) → (B, D)."""
    return (reads[0].shape[0], reads[0].shape[2])


SELECT_TOKEN = Kind(
    name="select_token", summary="the first token of each image", shape=_pooled_shape, view=True, stays=0
)


def _mean_unwind(c: Context, b: Backward) -> None:
    prefix = c.op.attrs["prefix"]
    if prefix:
        tokens = c.reads[0].shape[1]
        b.take(c.own("spread gradient"), c.reads[0].bytes * (tokens - prefix) // tokens)
        b.end_node()
    b.give(0)
    b.drop(c.own("spread gradient"))


MEAN_TOKENS = Kind(
    name="mean_tokens",
    summary="the mean of the patch tokens of each image",
    shape=_pooled_shape,
    plain=Rule(unwind=_mean_unwind),
    stays=0,
)
