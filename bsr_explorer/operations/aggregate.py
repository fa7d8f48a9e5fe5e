"""What several layers say of each token, weighted by relevance over redundancy (SHERL), and a sum whose one summand a
learned number opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, Taking, kept, own, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH

# --- the weighted sum of layers -------------------------------------------------------------------------


def _shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """Shallow layers, then the deep one, each (B, N, H) → (B, N, H)."""
    return reads[-1].shape


def _sizes(c: Context) -> tuple[int, int, int]:
    """(tokens of all images, shallow layers, channels)."""
    *tokens, channels = c.writes.shape
    return prod(tokens), len(c.reads) - 1, channels


def _layers(c: Context) -> Kept:
    tokens, layers, channels = _sizes(c)
    return own(c, "layers", (tokens, layers, channels), c.writes.dtype)


def _keeps(c: Context) -> list[Kept]:
    """The shallow layers as one tensor, the deep one, and the result."""
    return [_layers(c), kept(c.reads[-1]), kept(c.writes)] if c.live else []


def _products(c: Context) -> int:
    """FLOPs of one product of every layer with one vector a token."""
    return FLOPS_PER_MAC * prod(_sizes(c))


def _forward(c: Context) -> int:
    """Cosines between all layers; relevance; and the sum."""
    return _products(c) * (_sizes(c)[1] + 2)


def _backward(c: Context) -> int:
    """Cosines and relevance once more; the gradients of weights, of what relevance is measured by, and of cosines."""
    return _products(c) * (2 * _sizes(c)[1] + 3)


def _weigh(c: Context, m: Taking) -> None:
    """Lengths, directions, cosines and redundancy; what relevance is measured by, and relevance over redundancy."""
    tokens, layers, channels = _sizes(c)
    width = WIDTH[c.writes.dtype]
    m.take(c.own("lengths"), tokens * layers * width)
    m.take(c.own("directions"), tokens * layers * channels * width)
    m.take(c.own("cosines"), tokens * layers * layers * width)
    m.take(c.own("redundancy"), tokens * layers * width)
    cast = _take_relevance(c, m)
    m.take(c.own("measure"), tokens * channels * width)
    m.drop(cast)
    m.take(c.own("relevance"), tokens * layers * width)
    m.take(c.own("weights"), tokens * layers * width)
    m.take(c.own("total"), tokens * width)


def _take_relevance(c: Context, m: Taking) -> str:
    """The vector that relevance is measured by, in the number format of the layers, if it has another."""
    weight, name = c.params["weight"], c.own("narrow")
    if weight.dtype != c.writes.dtype:
        m.take(name, weight.numel * WIDTH[c.writes.dtype])
    return name


_WEIGHED = ("lengths", "directions", "cosines", "redundancy", "measure", "relevance", "weights", "total")


def _run(c: Context, m: Forward) -> None:
    layers = _layers(c)
    m.take(layers.tensor, prod(layers.shape) * WIDTH[layers.dtype])
    _weigh(c, m)
    write(c, m)
    m.drop(*(c.own(name) for name in _WEIGHED), layers.tensor)


def _unwind(c: Context, b: Backward) -> None:
    tokens, layers, channels = _sizes(c)
    width = WIDTH[c.writes.dtype]
    b.take(c.own("gradient of sum"), tokens * channels * width)
    _weigh(c, b)
    b.take(c.own("gradient of weights"), tokens * layers * width)
    b.take(c.own("mean gradient"), tokens * layers * width)
    b.take(c.own("mean"), tokens * width)
    b.drop(c.own("mean gradient"), c.own("mean"))
    b.take(c.own("gradient of redundancy"), tokens * layers * width)
    b.take(c.own("gradient of relevance"), tokens * layers * width)
    b.give(layers)  # first that of what relevance is measured by
    b.take(c.own("product"), tokens * channels * width)
    b.give_part("weight")
    b.drop(c.own("product"))
    b.give_part("bias")
    b.take(c.own("gradient of layers"), tokens * layers * channels * width)
    b.take(c.own("gradient of cosines"), tokens * layers * layers * width)
    b.take(c.own("gradient of directions"), tokens * layers * channels * width)
    b.take(c.own("product of layers"), tokens * layers * channels * width)
    b.take(c.own("along"), tokens * layers * width)
    b.drop(c.own("product of layers"))
    b.drop(c.own("gradient of cosines"), c.own("gradient of directions"), c.own("along"))
    for read in range(layers):
        b.give(read)
    b.drop(_take_relevance(c, b))
    b.end_call()
    b.drop(*(c.own(name) for name in _WEIGHED))
    b.drop(*(c.own(f"gradient of {name}") for name in ("sum", "weights", "relevance", "redundancy")))
    b.drop(c.own("gradient of layers"))


AGGREGATE = Kind(
    name="aggregate",
    summary="the sum of layers, each token's weighted by relevance over redundancy, with the last added; ReLU",
    shape=_shape,
    plain=Rule(
        keeps=_keeps,
        forward=_forward,
        backward=_backward,
        run=_run,
        unwind=_unwind,
        keeps_results=True,
    ),
    as_first=True,
)

# --- a summand that a learned number opens ----------------------------------------------------------------


def _opened_keeps(c: Context) -> list[Kept]:
    """What is opened, for the number's gradient."""
    return [kept(c.reads[0])] if c.trains("gate") else []


def _take_share(c: Context, m: Taking) -> None:
    gate, narrow = c.params["gate"], c.reads[0].dtype
    wide = c.own("wide share") if gate.dtype != narrow else c.own("share")
    m.take(wide, gate.bytes)
    if gate.dtype != narrow:
        m.take(c.own("share"), prod(gate.shape) * WIDTH[narrow])
        m.drop(wide)


def _opened_run(c: Context, m: Forward) -> None:
    _take_share(c, m)
    write(c, m)
    m.drop(c.own("share"))


def _opened_unwind(c: Context, b: Backward) -> None:
    b.take(c.own("product"), c.writes.bytes)
    b.take(c.own("sum"), WIDTH["fp32"])
    b.drop(c.own("product"))
    b.take(c.own("share"), c.params["gate"].bytes)
    b.give_part("gate")
    b.drop(c.own("share"), c.own("sum"))
    if c.reads[1].dtype == c.writes.dtype:
        b.pass_on(1)
    else:
        b.give(1)
    b.end_call()


ADD_OPENED = Kind(
    name="add_opened",
    summary="the sum of a constant, times the hyperbolic tangent of a number that trains, and a tensor",
    plain=Rule(keeps=_opened_keeps, run=_opened_run, unwind=_opened_unwind, keeps_results=True),
    as_first=True,
)
