"""Lite residual modules: small convolutions of patch tokens on a grid of half as many rows and columns.

TinyTL put them beside the blocks of a convolutional network, and Rep-Net took them over: means of two by two patches, a
convolution in groups to r times fewer channels, a norm, ReLU, a convolution 1×1 back to D channels, and a norm that
starts at zero. The norms are LayerNorms over channels here, in the place of batch and group norms: images stay apart,
and micro-batches do not change what is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import whole_number
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.side import SideNetwork, Writer
from bsr_explorer.tape import Tape, halved

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry

KERNEL = 3
"""Rows and columns of the convolution's kernel."""


@dataclass(frozen=True, eq=False, repr=False)
class Lite(SideNetwork):
    """A method of lite residual modules.

    Attributes:
        r: how many times fewer channels than the backbone's a module has within.
        groups: of channels, that its convolution keeps apart.
    """

    r: int = 8
    groups: int = quiet(2)

    def __post_init__(self) -> None:
        for argument in ("r", "groups"):
            whole_number(self, argument)

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many times fewer channels."""
        return (Numbers("r", (4, 8, 16)),)


def check_sizes(method: Method, width: int, side: int, r: int, groups: int) -> None:
    """Refuse what does not divide a model's width, or has nothing to pool.

    Args:
        width: D.
        side: rows and columns of patches.

    Raises:
        UserError: with what would be allowed.
    """
    if side < 2:
        raise UserError(
            f"--method: {method} takes patches two by two, and an image of this --image-size has one; take a larger one"
        )
    if width % groups:
        raise UserError(
            f"--method: {method}: a width of {width} is no multiple of groups; groups must be one of "
            f"{_divisors(width)}"
        )
    if width // groups % r:
        raise UserError(
            f"--method: {method}: a width of {width} in {groups} groups is no multiple of r; r must be one of "
            f"{_divisors(width // groups)}"
        )


def _divisors(number: int) -> str:
    return ", ".join(str(r) for r in range(1, number + 1) if number % r == 0)


def side_of(tape: Tape, tokens: str) -> int:
    """Rows and columns of the patches among the tokens of a tensor."""
    return isqrt(tape.tensors[tokens].shape[1] - tape.prefix_tokens)


def pooled(side: Writer, here: str, x: str, tape: Tape) -> str:
    """Add means of two by two patches of x, laid token by token."""
    return side.feature(here, side.op(here, "pool_patches", (x,), {}, side=side_of(tape, x)), tape)


def module(side: Writer, here: str, x: str, width: int, grid: int, r: int, groups: int) -> str:
    """Add what follows the means.

    Args:
        grid: rows and columns of patches.
    """
    narrow, few = width // r, halved(grid)
    weight = side.own(f"{here}.conv.weight", (narrow, width // groups, KERNEL, KERNEL))
    x = side.op(f"{here}.conv", "convolution", (x,), {"weight": weight}, prefix=0, side=few)
    x = side.norm(f"{here}.norm", x, narrow)
    x = side.op(f"{here}.act", "relu", (x,), {})
    x = side.linear(f"{here}.up", x, width, narrow, bias=False)
    return side.norm(f"{here}.last", x, width)
