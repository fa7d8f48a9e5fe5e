"""A mean of two tensors, whose weight is one learned number."""

from __future__ import annotations

from math import prod

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, Taking, own, write
from bsr_explorer.units import WIDTH


def _keeps(c: Context) -> list[Kept]:
    """The difference of the two, for the weight's gradient."""
    return [own(c, "difference", c.writes.shape, c.writes.dtype)] if c.trains("gate") else []


def _take_share(c: Context, m: Taking) -> None:
    """The weight, cast from the gate's number format if the tensors have another."""
    gate, narrow = c.params["gate"], c.writes.dtype
    wide = c.own("wide share") if gate.dtype != narrow else c.own("share")
    m.take(wide, gate.bytes)
    if gate.dtype != narrow:
        m.take(c.own("share"), prod(gate.shape) * WIDTH[narrow])
        m.drop(wide)


def _run(c: Context, m: Forward) -> None:
    m.take(c.own("difference"), c.writes.bytes)
    _take_share(c, m)
    write(c, m)
    m.drop(c.own("share"), c.own("difference"))


def _unwind(c: Context, b: Backward) -> None:
    """The gate's gradient is a sum in 32 bits. Of the two tensors, the first gets its share of what arrived, and the
    second the rest."""
    if c.trains("gate"):
        b.take(c.own("product"), c.writes.bytes)
        b.take(c.own("sum"), WIDTH["fp32"])
        b.drop(c.own("product"))
        b.take(c.own("share"), c.params["gate"].bytes)
        b.give_part("gate")
        b.drop(c.own("share"), c.own("sum"))
    _take_share(c, b)
    b.give(0)
    b.give(1)
    b.end_call()
    b.drop(c.own("share"))


MIX = Kind(
    name="mix",
    summary="a mean of two tensors, weighted by the sigmoid of a number that trains",
    plain=Rule(keeps=_keeps, run=_run, unwind=_unwind, keeps_results=True),
    as_first=True,
)
