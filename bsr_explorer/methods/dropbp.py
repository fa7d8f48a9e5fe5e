"""DropBP: in each step some residual branches pass no gradient, and their parameters do not train in it.

The forward pass is that of the plain model. What a skipped branch would keep for backward is not kept. The authors'
code gives each branch a rate of its own by its sensitivity; here all have the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.moving import BRANCHES, Moving, drawn, first_of, modules_of
from bsr_explorer.methods.steps import DRAWS, Choice, Shape, Steps, drawn_from
from bsr_explorer.naming import blocks_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

DRAWN = ("each", "count")


@dataclass(frozen=True, eq=False, repr=False)
class DropBP(Moving):
    """Residual branches of blocks are skipped in backward at random.

    Attributes:
        rate: share of the branches (two a block) that are skipped, in [0, 1).
        draw: ``each``: each is with this probability, so that a step may skip none; ``count``: as many are in each
            step, so that each step holds less.
    """

    rate: float = 0.5
    draw: str = quiet("each")

    name: ClassVar[str] = "dropbp"
    summary: ClassVar[str] = "in each step some residual branches, drawn at random, pass no gradient"
    citation: ClassVar[str] = "Woo et al., DropBP, NeurIPS 2024 (arXiv 2402.17812)"

    def __post_init__(self) -> None:
        rate: Any = self.rate
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise UserError(
                f"--method: dropbp(rate={rate!r}): rate must be at least 0 and below 1, such as 0.5"
            )
        object.__setattr__(self, "rate", float(rate))
        if self.draw not in DRAWN:
            raise unknown("--method: dropbp(draw=…)", self.draw, DRAWN)

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """The rate."""
        return (Numbers("rate", (0.25, 0.5, 0.75)),)

    def steps(self, depth: int) -> Steps:
        """Branches are drawn: in a step of ``each``, none may be skipped."""
        branches = _branches(depth)
        if self.draw == "count":
            train = Choice(tuple(branches), len(branches) - self.count(depth))
            return drawn_from(
                (train,), _skipping, str(self), f"{self.count(depth)} branches are skipped in each step"
            )
        rng = random.Random(str(self))
        drawn = [tuple(branch for branch in branches if rng.random() < self.rate) for _ in range(DRAWS)]
        return Steps(
            tuple((1 / DRAWS, _skipping(some)) for some in drawn),
            f"{DRAWS} steps, drawn as a training draws them, stand for all",
            shape=_skipping,
        )

    def count(self, depth: int) -> int:
        """How many branches are skipped, where that is the same in each step."""
        return round(self.rate * 2 * depth)

    def rewrite(self, tape: Tape) -> Tape:
        """Nothing is skipped.

        Raises:
            UserError: blocks of this architecture have no such branches.
        """
        there = {op.name for op in tape}
        missing = [first for b in _branches(len(tape.blocks)) if (first := first_of(b)) not in there]
        if missing:
            raise _without(self, tape.architecture)
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """Let branches be skipped."""
        from bsr_explorer.methods.applied.moving import let_skip

        let_skip(model, _branches(len(blocks_of(model))))
        return model

    def choose(self, model: nn.Module, done: int, total: int) -> Shape:
        """Some branches, drawn anew."""
        import torch

        branches = _branches(len(blocks_of(model)))
        if self.draw == "count":
            places = drawn(self.count(len(branches) // 2), len(branches))
            return _skipping(tuple(branches[place] for place in places))
        chances = torch.rand(len(branches)).tolist()
        return _skipping(tuple(b for b, chance in zip(branches, chances, strict=True) if chance < self.rate))


def _branches(depth: int) -> list[str]:
    return [f"blocks.{block}.{name}" for block in range(depth) for name in BRANCHES]


def _skipping(branches: tuple[str, ...]) -> Shape:
    """In the order of the model, with what rests for it."""
    some = sorted(branches, key=lambda branch: (int(branch.split(".")[1]), branch))
    return Shape(rests=tuple(path for branch in some for path in modules_of(branch)), skips=tuple(some))


def _without(method: Method, architecture: str) -> UserError:
    return UserError(
        f"--method: {method} skips the residual branches of a block, norm1 to attn and norm2 to mlp, and models of "
        f"the architecture {architecture} have none of these names; leave it out"
    )
