"""What DoRA does behind a linear layer and its update: outputs get the length that trains."""

from __future__ import annotations

from math import prod

from bsr_explorer.devices import Device
from bsr_explorer.operations.kind import Casting, Formats, Kind
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, Taking, kept, own, write
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH


def _keeps(c: Context) -> list[Kept]:
    """What is scaled; the rows' lengths; and the parameters."""
    magnitude = c.params["magnitude"]
    return [kept(c.reads[0]), own(c, "lengths", magnitude.shape, magnitude.dtype), kept(magnitude)]


def _forward(c: Context) -> int:
    """The product of the update's two matrices."""
    out, width = c.op.attrs["weight"]
    return int(FLOPS_PER_MAC * out * width * c.op.attrs["r"])


def _take_factors(c: Context, m: Taking) -> None:
    """Magnitudes over lengths, in the number format of what is scaled."""
    magnitude, dtype = c.params["magnitude"], c.reads[0].dtype
    m.take(c.own("quotients"), magnitude.bytes)
    if magnitude.dtype != dtype:
        m.take(c.own("factors"), magnitude.numel * WIDTH[dtype])
        m.drop(c.own("quotients"))


def _run(c: Context, m: Forward) -> None:
    magnitude, dtype = c.params["magnitude"], c.reads[0].dtype
    m.take(c.own("weight"), prod(c.op.attrs["weight"]) * WIDTH[magnitude.dtype])
    m.take(c.own("lengths"), magnitude.bytes)
    m.drop(c.own("weight"))
    _take_factors(c, m)
    write(c, m)
    if c.op.attrs["bias"]:
        m.take(c.own("rest"), magnitude.numel * WIDTH[dtype])
        m.drop(c.own("rest"))
    m.drop(c.own("lengths"), c.own("quotients"), c.own("factors"))


def _unwind(c: Context, b: Backward) -> None:
    magnitude, dtype = c.params["magnitude"], c.reads[0].dtype
    narrow = magnitude.numel * WIDTH[dtype]
    b.take(c.own("product"), c.writes.bytes)
    b.take(c.own("total"), narrow)
    b.drop(c.own("product"))
    if c.op.attrs["bias"]:
        b.take(c.own("total of the gradient"), narrow)
        b.drop(c.own("total of the gradient"))
    b.give_part("magnitude")
    b.drop(c.own("total"))
    if c.needs[0]:
        _take_factors(c, b)
        b.give(0)
        b.drop(c.own("quotients"), c.own("factors"))
    b.end_call()


def _as_it_is(formats: Formats, narrow: str, device: Device) -> Casting:
    """The result has the format of what is scaled."""
    return Casting(None, {"dtype": formats[0]})


MAGNITUDE = Kind(
    name="magnitude",
    summary="outputs of a linear layer and its update, scaled to lengths that train (DoRA)",
    plain=Rule(keeps=_keeps, forward=_forward, run=_run, unwind=_unwind, keeps_results=True),
    autocast=_as_it_is,
)
