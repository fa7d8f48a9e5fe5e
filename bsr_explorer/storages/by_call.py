"""Which tensors a call of a function of torch keeps that may be packed, by the place that each has.

A block whose layers are known has a place for each of its tensors (``methods.storing``). Of a block that was traced
only its calls are known, so that a tensor's place follows from the first call that may keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bsr_explorer.storages.storage import Shape


@dataclass(frozen=True)
class Keeping:
    """What a call keeps.

    Attributes:
        arguments: by number among the tensors that it is given, the place of what it reads.
        made: the place of what it makes itself and keeps (its result, or a copy); nothing: that is kept as it is.
        least: dimensions of such a tensor, at least: what has fewer is small.
    """

    arguments: Mapping[int, str] = field(default_factory=dict)
    made: str = ""
    least: int = 3


_WEIGHTED = Keeping({0: "attended"})
_NORM = Keeping({0: "residual"})
_ACTIVATION = Keeping({0: "hidden"})
_PRODUCT = Keeping({0: "operand", 1: "operand"}, "operand")

CALLS: Mapping[str, Keeping] = {
    "linear": _WEIGHTED,
    "addmm": Keeping({1: "attended"}),
    "conv1d": _WEIGHTED,
    "conv2d": _WEIGHTED,
    "layer_norm": _NORM,
    "group_norm": _NORM,
    "batch_norm": _NORM,
    "gelu": _ACTIVATION,
    "silu": _ACTIVATION,
    "hardswish": _ACTIVATION,
    "relu": Keeping(made="hidden", least=2),
    "softmax": Keeping(made="softmax", least=2),
    "matmul": _PRODUCT,
    "bmm": _PRODUCT,
    "scaled_dot_product_attention": Keeping({0: "operand", 1: "operand", 2: "operand"}, "attended"),
}
"""By the name of the function."""

JOINED = 3
"""Queries, keys and values are often parts of one tensor: an operand that is such a part of what it is a view of."""


def place_of(place: str, elements: int, of_whole: int) -> str:
    """The place of what a call reads, given its elements and those of what it is a view of."""
    return "qkv" if place == "operand" and elements * JOINED == of_whole else place


def laid_out(shape: Shape, stride: Shape) -> Shape | None:
    """The shape of a tensor in the order in which it lies in memory; None, if it leaves gaps or lies on itself.

    Heads that lie side by side, as fused attention writes them, (B, N, heads, d), are channels: (B, N, heads·d).

    Args:
        shape, stride: elements.
    """
    order = sorted((place for place, size in enumerate(shape) if size != 1), key=lambda p: (-stride[p], p))
    filled = 1
    for place in reversed(order):
        if stride[place] != filled:
            return None
        filled *= shape[place]
    if order == sorted(order):
        return shape
    laid = tuple(shape[place] for place in order)
    return (*laid[:2], laid[2] * laid[3]) if order == [0, 2, 1, 3] else laid


@dataclass(frozen=True)
class Packs:
    """What of a call is packed.

    Attributes:
        arguments: numbers of tensors that it is given.
        made: least dimensions of what it makes itself; 0: that is kept as it is.
    """

    arguments: frozenset[int] = frozenset()
    made: int = 0

    def makes(self, shape: Shape, given: Sequence[Shape]) -> bool:
        """Whether something of this shape that a call makes and keeps is packed: no numbers of rows, such as the
        log-sum-exp.

        Args:
            given: shapes of what it is given.
        """
        return 0 < self.made <= len(shape) and not (given and shape == given[0][:-1])

    def copied(self, shape: Shape, given: Sequence[Shape]) -> int | None:
        """The packed argument of which a call keeps a copy (autocast's), by its shape.

        Args:
            shape: of what it keeps.
            given: of what it is given.
        """
        return next((number for number in sorted(self.arguments) if given[number] == shape), None)


NOTHING = Packs()
