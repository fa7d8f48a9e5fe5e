"""The loss, at which backward begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.devices import Device
from bsr_explorer.operations.kind import Casting, Formats, Kind
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
    wide = [own(c, "wide log_softmax", scores.shape, c.writes.dtype)] if _widens(c) else []
    return [
        own(c, "log_softmax", scores.shape, scores.dtype),
        *wide,
        own(c, "total_weight", (), c.writes.dtype),
    ]


def _widens(c: Context) -> bool:
    """Whether log-probabilities are cast, and not the scores."""
    return c.reads[0].dtype != c.writes.dtype


def _wide_bytes(c: Context) -> int:
    return c.reads[0].numel * WIDTH[c.writes.dtype]


def _run(c: Context, m: Forward) -> None:
    m.take(c.own("log_softmax"), c.reads[0].bytes)
    if _widens(c):
        m.take(c.own("wide log_softmax"), _wide_bytes(c))
    write(c, m)
    m.take(c.own("total_weight"), WIDTH[c.writes.dtype])
    m.drop(c.own("log_softmax"), c.own("wide log_softmax"), c.own("total_weight"))


def _unwind(c: Context, b: Backward) -> None:
    gradient = c.own("gradient of log_softmax")
    b.take(gradient, _wide_bytes(c))
    b.end_node(c.own("wide log_softmax"), c.own("total_weight"))
    if _widens(c):
        b.take(c.own("narrow gradient"), c.reads[0].bytes)
        b.drop(gradient)
    b.give(0)
    b.drop(gradient, c.own("narrow gradient"))


def _autocast(formats: Formats, narrow: str, device: Device) -> Casting:
    """In 32 bits: the whole of it, or what comes after the softmax."""
    return Casting("fp32") if device.loss_casts_scores else Casting(None, {"dtype": "fp32"})


CROSS_ENTROPY = Kind(
    name="cross_entropy",
    summary="the mean cross-entropy of scores (B, classes) and labels",
    shape=_shape,
    plain=Rule(keeps=_keeps, run=_run, unwind=_unwind, keeps_results=True),
    autocast=_autocast,
    is_loss=True,
)
