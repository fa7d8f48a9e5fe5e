"""Scores of patch tokens, by which tokens are dropped, that need no class token. Only learned ones carry a gradient.

The class token's attention is a kind of its own (``class_attention``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.devices import Device
from bsr_explorer.operations.kind import Casting, Formats, Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, kept, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH


def _shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, …) → (B, N − prefix)."""
    batch, tokens, _ = reads[0].shape
    return (batch, tokens - op.attrs["prefix"])


TOKEN_NORMS = Kind(name="token_norms", summary="the length of each patch token", shape=_shape)

# --- at random ------------------------------------------------------------------------------------------


RANDOM_SCORES = Kind(
    name="random_scores",
    summary="a random number for each patch token",
    shape=_shape,
)
"""What it makes on the way is a seed on the CPU, of 8 bytes, which is gone before the scores are there: it is on no
peak."""

# --- the mean attention ---------------------------------------------------------------------------------


def _forward(c: Context) -> int:
    """All queries times all keys."""
    batch, tokens, width3 = c.reads[0].shape
    return FLOPS_PER_MAC * batch * tokens * tokens * width3 // 3


def _run(c: Context, m: Forward) -> None:
    """One head after another. The first head's sum over the queries takes those of the others."""
    (batch, tokens, width3), heads = c.reads[0].shape, c.op.attrs["heads"]
    narrow, wide = WIDTH[c.reads[0].dtype], WIDTH[c.writes.dtype]
    for head in range(heads):
        m.take(c.own("query"), batch * tokens * width3 // 3 // heads * narrow)
        m.take(c.own("products"), batch * tokens * tokens * narrow)
        m.drop(c.own("query"))
        m.take(c.own("softmax"), batch * tokens * tokens * wide)
        m.drop(c.own("products"))
        received = c.own("received" if head else "total")
        m.take(received, batch * tokens * wide)
        m.drop(c.own("softmax"))
        if head:
            m.drop(received)
    write(c, m)
    m.drop(c.own("total"))


def _autocast(formats: Formats, narrow: str, device: Device) -> Casting:
    return Casting(None, {"dtype": device.softmax or narrow})


MEAN_ATTENTION = Kind(
    name="mean_attention",
    summary="the attention that each patch token receives, averaged over all tokens and heads",
    shape=_shape,
    plain=Rule(forward=_forward, run=_run),
    autocast=_autocast,
)

# --- how much a block changes the class token ---------------------------------------------------------------


def _number(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """A number, for which there is a place already."""
    return ()


def _note(c: Context, m: Forward) -> None:
    """The difference, whose squares are summed in place."""
    batch, _, width = c.reads[0].shape
    m.take(c.own("change"), batch * width * max(WIDTH[tensor.dtype] for tensor in c.reads))
    m.drop(c.own("change"))


CLASS_CHANGE = Kind(
    name="class_change",
    summary="how much a block changes the class token, written into a buffer",
    shape=_number,
    plain=Rule(run=_note),
    carries=lambda op: False,
)

# --- learned --------------------------------------------------------------------------------------------


def _softmax_keeps(c: Context) -> list[Kept]:
    return [kept(c.writes)] if c.needs[0] else []


def _softmax_unwind(c: Context, b: Backward) -> None:
    """The gradient of the patches' numbers is laid into one of all tokens'."""
    b.take(c.own("gradient of patches"), c.writes.bytes)
    b.give(0)
    b.end_call()
    b.drop(c.own("gradient of patches"))


PATCH_SOFTMAX = Kind(
    name="patch_softmax",
    summary="the softmax over the patch tokens of a number for each token",
    shape=_shape,
    plain=Rule(keeps=_softmax_keeps, unwind=_softmax_unwind, keeps_results=True),
    autocast=_autocast,
)
