"""Operations on tokens: adding the prefix, dropping, pooling; and the loss at their end."""

from __future__ import annotations

from bsr_explorer.cost.rules.base import (
    Backward,
    Context,
    Forward,
    Kept,
    Rule,
    give_all,
    nothing,
    own,
    view,
    write,
    zero,
)
from bsr_explorer.tape import kept_tokens
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH


def _prefix_unwind(c: Context, b: Backward) -> None:
    """What was concatenated gets a part of the gradient; a token's is summed over the images, if there are
    several."""
    for part in c.params:
        if c.trains(part) and c.writes.shape[0] == 1:
            b.view_part(part)
        elif c.trains(part):
            b.give_part(part)
    if c.needs[0] and c.reads[0].dtype == c.writes.dtype:
        b.pass_on(0)
    elif c.needs[0]:
        b.give(0)


PREFIX_TOKENS = Rule(nothing, zero, zero, write, _prefix_unwind)

# --- dropping tokens ------------------------------------------------------------------------------------


def _dropped(c: Context) -> tuple[int, int, int]:
    """(batch, patch tokens in, patch tokens kept)."""
    batch, tokens, _ = c.reads[0].shape
    patches = tokens - c.op.attrs["prefix"]
    return batch, patches, kept_tokens(patches, c.op.attrs["keep"])


def _drop_keeps(c: Context) -> list[Kept]:
    """The 32-bit positions of the kept tokens and, if the dropped are fused, their weights."""
    batch, patches, count = _dropped(c)
    if not c.needs[0]:
        return []
    positions = own(c, "positions", (batch * count,), "int32")
    if not c.op.attrs["fuse"]:
        return [positions]
    return [positions, own(c, _weights(c), (batch, 1, patches), _product(c))]


def _product(c: Context) -> str:
    """Number format of the product that fuses tokens."""
    return str(c.op.attrs.get("product", c.reads[0].dtype))


def _weights(c: Context) -> str:
    """The weights as the product takes them: themselves, or a cast copy."""
    return "weights" if c.reads[1].dtype == _product(c) else "cast weights"


def _drop_forward(c: Context) -> int:
    """The weighted sum of the dropped tokens, as a product over all of them (weight 0 for the kept)."""
    batch, patches, _ = _dropped(c)
    return FLOPS_PER_MAC * batch * patches * c.reads[0].shape[-1] if c.op.attrs["fuse"] else 0


def _drop_backward(c: Context) -> int:
    return _drop_forward(c) * c.needs[0]


def _drop_run(c: Context, m: Forward) -> None:
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


def _drop_unwind(c: Context, b: Backward) -> None:
    """The parts of the concatenation see the gradient that arrived, until the kept tokens' part is copied
    (with one image it stays a view). Each leads to a tensor of all tokens; they are added up one by one."""
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


def _always(c: Context) -> bool:
    return True


DROP_TOKENS = Rule(
    _drop_keeps,
    _drop_forward,
    _drop_backward,
    _drop_run,
    _drop_unwind,
    keeps_results=True,
    several_nodes=_always,
)

# --- pooling --------------------------------------------------------------------------------------------

SELECT_TOKEN = Rule(nothing, zero, zero, view, give_all)


def _mean_unwind(c: Context, b: Backward) -> None:
    prefix = c.op.attrs["prefix"]
    if prefix:
        tokens = c.reads[0].shape[1]
        b.take(c.own("spread gradient"), c.reads[0].bytes * (tokens - prefix) // tokens)
        b.end_node()
    b.give(0)
    b.drop(c.own("spread gradient"))


MEAN_TOKENS = Rule(nothing, zero, zero, write, _mean_unwind)

# --- loss -----------------------------------------------------------------------------------------------


def _loss_keeps(c: Context) -> list[Kept]:
    """Log-probabilities and the sum of class weights. (The labels are an input.)"""
    if not c.needs[0]:
        return []
    scores = c.reads[0]
    return [own(c, "log_softmax", scores.shape, scores.dtype), own(c, "total_weight", (), scores.dtype)]


def _loss_run(c: Context, m: Forward) -> None:
    m.take(c.own("log_softmax"), c.reads[0].bytes)
    write(c, m)
    m.take(c.own("total_weight"), WIDTH[c.reads[0].dtype])
    m.drop(c.own("log_softmax"), c.own("total_weight"))


def _loss_unwind(c: Context, b: Backward) -> None:
    b.take(c.own("gradient of log_softmax"), c.reads[0].bytes)
    b.end_node(c.own("total_weight"))
    b.give(0)
    b.drop(c.own("gradient of log_softmax"))


CROSS_ENTROPY = Rule(_loss_keeps, zero, zero, _loss_run, _loss_unwind, keeps_results=True)
