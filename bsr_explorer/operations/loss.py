"""The loss, at which backward begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.operations.kind import Kind, in_32_bits
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, own, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import WIDTH


def _shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """One number."""
    return ()


def _keeps(c: Context) -> list[Kept]:
    """Log-probabilities and the sum of class weights. (The labels are an input.)"""
    if not c.needs[0]:
        return []
    scores = c.reads[0]
    return [own(c, "log_softmax", scores.shape, scores.dtype), own(c, "total_weight", (), scores.dtype)]


def _run(c: Context, m: Forward) -> None:
    m.take(c.own("log_softmax"), c.reads[0].bytes)
    write(c, m)
    m.take(c.own("total_weight"), WIDTH[c.reads[0].dtype])
    m.drop(c.own("log_softmax"), c.own("total_weight"))


def _unwind(c: Context, b: Backward) -> None:
    b.take(c.own("gradient of log_softmax"), c.reads[0].bytes)
    b.end_node(c.own("total_weight"))
    b.give(0)
    b.drop(c.own("gradient of log_softmax"))


CROSS_ENTROPY = Kind(
    name="cross_entropy",
    summary="the mean cross-entropy of scores (B, classes) and labels",
    shape=_shape,
    plain=Rule(keeps=_keeps, run=_run, unwind=_unwind, keeps_results=True),
    autocast=in_32_bits,
    is_loss=True,
)
