"""BSR's token drop as it was when the steps were recorded: a sum over all tokens, with weight 0 for those that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bsr_explorer.devices import Device
from bsr_explorer.operations.kind import Casting, Formats
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, own, write
from bsr_explorer.operations.tokens import DROP_TOKENS, _dropped
from bsr_explorer.units import WIDTH


def _product(c: Context) -> str:
    return str(c.op.attrs.get("product", c.reads[0].dtype))


def _weights(c: Context) -> str:
    return "weights" if c.reads[1].dtype == _product(c) else "cast weights"


def _keeps(c: Context) -> list[Kept]:
    batch, patches, count = _dropped(c)
    if not c.needs[0]:
        return []
    positions = own(c, "positions", (batch * count,), "int32")
    if not c.op.attrs["fuse"]:
        return [positions]
    return [positions, own(c, _weights(c), (batch, 1, patches), _product(c))]


def _run(c: Context, m: Forward) -> None:
    batch, patches, count = _dropped(c)
    width, scored = c.reads[0].shape[-1], WIDTH[c.reads[1].dtype]
    m.take(c.own("top scores"), batch * count * scored)
    m.take(c.own("best"), batch * count * WIDTH["int64"])
    m.drop(c.own("top scores"))
    m.take(c.own("images"), batch * WIDTH["int64"])
    for name in ("in image", "in batch"):
        m.take(c.own(name), batch * count * WIDTH["int64"])
    m.drop(c.own("in image"))
    m.take(c.own("positions"), batch * count * WIDTH["int32"])
    m.drop(c.own("in batch"))
    m.take(c.own("selected"), batch * count * width * WIDTH[c.reads[0].dtype])
    if c.op.attrs["fuse"]:
        product = WIDTH[_product(c)]
        m.take(c.own("weights"), batch * patches * scored)
        if _weights(c) != "weights":
            m.take(c.own("cast weights"), batch * patches * product)
        if _product(c) != c.reads[0].dtype:
            m.take(c.own("cast tokens"), batch * patches * width * product)
        m.take(c.own("fused"), batch * width * product)
        m.drop(c.own("cast weights"), c.own("cast tokens"))
    write(c, m)
    m.drop(*(c.own(name) for name in ("best", "images", "positions", "selected", "weights", "fused")))


def _unwind(c: Context, b: Backward) -> None:
    batch, patches, count = _dropped(c)
    width, dtype = c.reads[0].shape[-1], c.reads[0].dtype
    if c.op.attrs["fuse"]:
        narrow = WIDTH[_product(c)]
        b.bring_back(c.own(_weights(c)))
        if _product(c) != dtype:
            b.take(c.own("cast gradient"), batch * width * narrow)
        b.take(c.own("gradient of fused"), batch * patches * width * narrow)
        b.drop(c.own("cast gradient"))
        b.let_go(c.own(_weights(c)))
        if _product(c) != dtype:
            b.take(c.own("wide gradient of fused"), batch * patches * width * WIDTH[dtype])
            b.drop(c.own("gradient of fused"))
        b.give(0)
        b.drop(c.own("gradient of fused"), c.own("wide gradient of fused"))
    b.give(0)
    b.let_go()
    if batch > 1:
        b.take(c.own("gradient of selected"), batch * count * width * WIDTH[dtype])
        b.end_node()
    b.bring_back(c.own("positions"))
    b.give(0)
    b.drop(c.own("gradient of selected"))


def _several(c: Context) -> bool:
    return True


def _autocast(formats: Formats, narrow: str, device: Device) -> Casting:
    added: Mapping[str, Any] = {"product": narrow}
    return Casting(None, added)


DROP_THEN = replace(
    DROP_TOKENS,
    plain=Rule(keeps=_keeps, run=_run, unwind=_unwind, keeps_results=True, several_nodes=_several),
    autocast=_autocast,
)
