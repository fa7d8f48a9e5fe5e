"""Operations as ``storages.functions`` runs them: what they keep is packed, and unpacked when it is needed.

Each is one autograd node, whose backward brings tensors back one after another and lets them go before the next.
What is kept is known after computing only, for a function saves when its forward has returned.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from bsr_explorer.operations.attention import (
    ATTENTION,
    CLASS_ATTENTION,
    attention_matrix,
    class_attention_keeps,
    logsumexp_shape,
    runs_on_views,
    scored,
)
from bsr_explorer.operations.elementwise import GELU, LAYER_NORM, SCALE, statistics
from bsr_explorer.operations.kind import Backward, Context, Forward, Kept, Rule, kept, own, write
from bsr_explorer.operations.linear import LINEAR
from bsr_explorer.units import WIDTH


def _linear_unwind(c: Context, b: Backward) -> None:
    if c.trains("weight"):
        b.bring_back(c.reads[0].storage)
        b.give_part("weight")
        b.bring_back()
    if c.needs[0]:
        b.give(0)
    if c.trains("bias"):
        b.give_part("bias")
    b.end_call()


# --- layer norm -----------------------------------------------------------------------------------------


def _normalized(c: Context) -> bool:
    """Whether it keeps its input as it is normalised, instead of as it is."""
    return c.own("normalized") in c.op.stored


def _norm_keeps(c: Context) -> list[Kept]:
    keeps = LAYER_NORM.keeps(c)
    if not keeps or not _normalized(c):
        return keeps
    _, _, rstd = keeps
    return [own(c, "normalized", c.reads[0].shape, c.reads[0].dtype), rstd]


def _norm_run(c: Context, m: Forward) -> None:
    if not _normalized(c):
        LAYER_NORM.run(c, m)
        return
    rows, dtype = statistics(c)
    write(c, m)
    for name in ("mean", "rstd"):
        m.take(c.own(name), prod(rows) * WIDTH[dtype])
    wide = max(WIDTH[dtype], WIDTH[c.reads[0].dtype])
    if wide > WIDTH[c.reads[0].dtype]:
        m.take(c.own("wide"), c.reads[0].numel * wide)
    m.take(c.own("normalized"), c.reads[0].bytes)
    m.drop(c.own("wide"))
    m.pack(c.own("normalized"))
    m.drop(*(c.own(name) for name in ("normalized", "mean", "rstd")))


def _norm_unwind(c: Context, b: Backward) -> None:
    b.bring_back(c.own("normalized") if _normalized(c) else c.reads[0].storage)
    if _normalized(c):
        rows, dtype = statistics(c)
        for name in ("zeros", "ones"):
            b.take(c.own(name), prod(rows) * WIDTH[dtype])
    if c.needs[0]:
        b.give(0)
    for part in c.params:
        if c.trains(part):
            b.give_part(part)
    b.drop(c.own("zeros"), c.own("ones"))
    b.end_call()


# --- others ---------------------------------------------------------------------------------------------


def _gelu_unwind(c: Context, b: Backward) -> None:
    b.restore_into(0, c.reads[0].storage)
    b.end_call()


def _scale_unwind(c: Context, b: Backward) -> None:
    if c.trains("gamma"):
        b.bring_back(c.reads[0].storage)
        if c.reads[0].dtype != c.writes.dtype:
            b.take(c.own("product"), c.writes.bytes)
        b.give_part("gamma")
        b.drop(c.own("product"))
        b.bring_back()
    if c.needs[0] and c.reads[0].dtype != c.writes.dtype:
        b.take(c.own("wide gradient"), c.writes.bytes)
    if c.needs[0]:
        b.give(0)
    b.drop(c.own("wide gradient"))
    b.end_call()


# --- attention ------------------------------------------------------------------------------------------


def _keeps(c: Context) -> list[Kept]:
    """q, k and v as one tensor; and the softmax, if there is one."""
    if not c.needs[0]:
        return []
    if c.op.attrs["path"] != "math":
        return [kept(c.reads[0])]
    batch, tokens, _ = c.reads[0].shape
    return [kept(c.reads[0]), own(c, "softmax", (batch, c.op.attrs["heads"], tokens, tokens), c.writes.dtype)]


def _run(c: Context, m: Forward) -> None:
    if c.op.attrs["path"] == "math":
        _run_explicit(c, m)
    else:
        ATTENTION.run(c, m)


def _backward(c: Context) -> int:
    """The fused kernel runs forward once more."""
    again = c.needs[0] and c.op.attrs["path"] != "math"
    return ATTENTION.backward(c) + ATTENTION.forward(c) * again


def _run_explicit(c: Context, m: Forward) -> None:
    """Products copy queries, keys and values side by side, unless they are so already."""
    size, width, views = c.writes.bytes, WIDTH[c.writes.dtype], runs_on_views(c)
    m.take(c.own("scaled"), size)
    if not views:
        m.take(c.own("query"), size)
        m.take(c.own("key"), size)
    m.take(c.own("scores"), attention_matrix(c) * width)
    m.drop(c.own("query"), c.own("key"), c.own("scaled"))
    m.take(c.own("softmax"), attention_matrix(c) * width)
    m.drop(c.own("scores"))
    if not views:
        m.take(c.own("value"), size)
    if c.op.attrs["heads"] > 1:
        m.take(c.own("by head"), size)
        m.drop(c.own("value"))
    write(c, m)
    m.drop(c.own("by head"), c.own("value"))
    m.pack(c.own("softmax"))
    m.drop(c.own("softmax"))


def _unwind(c: Context, b: Backward) -> None:
    gradients = [c.own(f"gradient of {part}") for part in "qkv"]
    if c.op.attrs["path"] == "math":
        _unwind_explicit(c, b, *gradients)
    else:
        b.bring_back(c.reads[0].storage)
        b.take(c.own("output again"), c.writes.bytes)
        b.take(c.own("logsumexp again"), prod(logsumexp_shape(c)) * WIDTH["fp32"])
        for name in gradients:
            b.take(name, c.writes.bytes)
        b.drop(c.own("output again"), c.own("logsumexp again"))
    b.bring_back()
    b.give(0)
    b.drop(*gradients)
    b.end_call()


def _unwind_explicit(c: Context, b: Backward, of_q: str, of_k: str, of_v: str) -> None:
    size, scores, views = c.writes.bytes, attention_matrix(c) * WIDTH[c.writes.dtype], runs_on_views(c)

    def side_by_side(name: str) -> None:
        if not views:
            b.take(c.own(name), size)

    b.bring_back(c.reads[0].storage, c.own("softmax"))
    side_by_side("gradient by head")
    b.take(of_v, size)
    side_by_side("value")
    b.take(c.own("gradient of softmax"), scores)
    b.drop(c.own("value"), c.own("gradient by head"))
    b.take(c.own("gradient of scores"), scores)
    b.drop(c.own("gradient of softmax"))
    b.forget(c.own("softmax"))
    side_by_side("key")
    b.take(of_q, size)
    b.drop(c.own("key"))
    b.take(c.own("scaled"), size)
    if not views:
        side_by_side("query")
        b.drop(c.own("scaled"))
    b.take(of_k, size)
    b.drop(c.own("scaled"), c.own("query"), c.own("gradient of scores"))


def _class_keeps(c: Context) -> list[Kept]:
    """The keys are in what attention has packed."""
    return class_attention_keeps(c, kept(c.reads[0])) if scored(c) else []


PACKED: dict[str, Rule] = {
    "linear": replace(LINEAR, unwind=_linear_unwind, keeps_results=True, unpacks=True),
    "layer_norm": replace(LAYER_NORM, keeps=_norm_keeps, run=_norm_run, unwind=_norm_unwind, unpacks=True),
    "gelu": replace(GELU, unwind=_gelu_unwind, keeps_results=True, unpacks=True),
    "scale": replace(SCALE, unwind=_scale_unwind, keeps_results=True, unpacks=True),
    "attention": replace(
        ATTENTION,
        keeps=_keeps,
        backward=_backward,
        run=_run,
        unwind=_unwind,
        several_nodes=lambda c: False,
        unpacks=True,
    ),
    "class_attention": replace(CLASS_ATTENTION, keeps=_class_keeps, unpacks=True),
}
