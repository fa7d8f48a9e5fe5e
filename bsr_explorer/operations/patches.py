"""Patch tokens on a grid of half as many rows and columns, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Rule, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import WIDTH


def halved(side: int) -> int:
    """Rows of a grid of so many, two by two; the last may be one alone."""
    return -(-side // 2)


def _pooled(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, D) → (B, n, D), of ``side`` rows and columns of patches behind some others."""
    batch, _, width = reads[0].shape
    return (batch, halved(op.attrs["side"]) ** 2, width)


def _pool_unwind(c: Context, b: Backward) -> None:
    b.give(0)
    b.end_call()


POOL_PATCHES = Kind(
    name="pool_patches",
    summary="means of two by two patch tokens, without those before them",
    shape=_pooled,
    plain=Rule(unwind=_pool_unwind, keeps_results=True),
)


def _spread(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, n, D) → (B, N, D): ``prefix`` tokens, and ``side`` rows and columns of patches."""
    batch, _, width = reads[0].shape
    return (batch, op.attrs["prefix"] + op.attrs["side"] ** 2, width)


def _one_token(c: Context) -> int:
    """Bytes of one token of each image."""
    batch, _, width = c.writes.shape
    return batch * width * WIDTH[c.writes.dtype]


def _spread_run(c: Context, m: Forward) -> None:
    write(c, m)
    if c.op.attrs["prefix"]:
        m.take(c.own("mean"), _one_token(c))
    m.drop(c.own("mean"))


def _spread_unwind(c: Context, b: Backward) -> None:
    b.give(0)
    if c.op.attrs["prefix"]:
        b.take(c.own("sum"), _one_token(c))
    b.drop(c.own("sum"))
    b.end_call()


SPREAD_PATCHES = Kind(
    name="spread_patches",
    summary="each token two by two times, behind their mean",
    shape=_spread,
    plain=Rule(run=_spread_run, unwind=_spread_unwind, keeps_results=True),
)
