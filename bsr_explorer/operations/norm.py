"""LayerNorm."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from bsr_explorer.devices import Device
from bsr_explorer.operations.kind import Casting, Formats, Kind
from bsr_explorer.operations.op import Op
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, give_all, kept, own, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import WIDTH


def _statistics(c: Context) -> tuple[Shape, str]:
    """Shape and number format of the mean and of the inverse deviation: the weight's format, or what the
    operation says."""
    dtype = c.params["weight"].dtype if "weight" in c.params else c.reads[0].dtype
    return (*c.reads[0].shape[:-1], 1), c.op.attrs.get("statistics", dtype)


def _keeps(c: Context) -> list[Kept]:
    """Input, mean and inverse deviation, even of a frozen norm, once it is recorded."""
    if not c.live:
        return []
    shape, dtype = _statistics(c)
    return [kept(c.reads[0]), own(c, "mean", shape, dtype), own(c, "rstd", shape, dtype)]


def _take_statistics(c: Context, m: Forward) -> None:
    shape, dtype = _statistics(c)
    for name in ("mean", "rstd"):
        m.take(c.own(name), prod(shape) * WIDTH[dtype])


def _run(c: Context, m: Forward) -> None:
    write(c, m)
    _take_statistics(c, m)
    m.drop(c.own("mean"), c.own("rstd"))


# --- packed ---------------------------------------------------------------------------------------------


def _normalized(c: Context) -> bool:
    """Whether it keeps its input as it is normalised, instead of as it is."""
    return c.own("normalized") in c.op.stored


def _keeps_packed(c: Context) -> list[Kept]:
    keeps = _keeps(c)
    if not keeps or not _normalized(c):
        return keeps
    _, _, rstd = keeps
    return [own(c, "normalized", c.reads[0].shape, c.reads[0].dtype), rstd]


def _run_packed(c: Context, m: Forward) -> None:
    if not _normalized(c):
        _run(c, m)
        return
    write(c, m)
    _take_statistics(c, m)
    wide = max(WIDTH[_statistics(c)[1]], WIDTH[c.reads[0].dtype])
    if wide > WIDTH[c.reads[0].dtype]:
        m.take(c.own("wide"), c.reads[0].numel * wide)
    m.take(c.own("normalized"), c.reads[0].bytes)
    m.drop(c.own("wide"))
    m.pack(c.own("normalized"))
    m.drop(*(c.own(name) for name in ("normalized", "mean", "rstd")))


def _unwind_packed(c: Context, b: Backward) -> None:
    b.bring_back(c.own("normalized") if _normalized(c) else c.reads[0].storage)
    if _normalized(c):
        rows, dtype = _statistics(c)
        for name in ("zeros", "ones"):
            b.take(c.own(name), prod(rows) * WIDTH[dtype])
    give_all(c, b)
    b.drop(c.own("zeros"), c.own("ones"))
    b.end_call()


# --- number formats -------------------------------------------------------------------------------------


def _autocast(formats: Formats, narrow: str, device: Device) -> Casting:
    """An input in 16 bits is cast, unless the device takes both formats at once."""
    if formats[0] != narrow:
        return Casting()
    return (
        Casting(None, {"dtype": narrow, "statistics": "fp32"}) if device.norms_take_both else Casting("fp32")
    )


def _on_device(op: Op, formats: Formats, device: Device) -> Mapping[str, Any]:
    return {"statistics": device.statistics} if device.statistics else {}


_LAYER_NORM = Rule(keeps=_keeps, run=_run, keeps_results=True)

LAYER_NORM = Kind(
    name="layer_norm",
    summary="LayerNorm over the last dimension",
    plain=_LAYER_NORM,
    packed=_LAYER_NORM.packed(keeps=_keeps_packed, run=_run_packed, unwind=_unwind_packed),
    autocast=_autocast,
    on_device=_on_device,
)
