"""DropBP: in each step some residual branches pass no gradient, and their parameters do not train in it.

The forward pass is that of the plain model. What a skipped branch would keep for backward is not kept.

All branches have the same rate, or each its own, by sensitivity, as in the authors' code: how far gradients change if
the branch alone is skipped, by the squared differences of their norms, on the first training batch (at most half of
it). Rates rise from 0 by tenths, each time that of the branch for which sensitivity times the new rate is least, until
as much of what branches compute is skipped as is asked for; none is above 0.9. They are found before the first step,
and saved with the weights. (The authors compare whole gradients, too, for which a copy of all would have to lie beside
them.) Whatever the rates, a step may skip nothing, and the bytes of a training are those of that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.axes import Axis, Choices, Numbers
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.moving import BRANCHES, VALUES, Moving, drawn, first_of, modules_of, remembering
from bsr_explorer.methods.steps import DRAWS, EVERYTHING, Choice, Shape, Steps, drawn_from
from bsr_explorer.naming import blocks_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

DRAWN = ("each", "count")

BY = ("all", "sensitivity")

MOST = 0.9
"""The highest rate of a branch, where each has its own."""


@dataclass(frozen=True, eq=False, repr=False)
class DropBP(Moving):
    """Residual branches of blocks are skipped in backward at random.

    Attributes:
        rate: share of the branches (two a block) that are skipped, in [0, 1).
        draw: ``each``: each is with this probability, so that a step may skip none; ``count``: as many are in each
            step, so that each step holds less.
        by: ``all``: every branch has this rate; ``sensitivity``: each its own, so that this share of what branches
            compute is skipped.
    """

    rate: float = 0.5
    draw: str = quiet("each")
    by: str = quiet("all")

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
        if self.by not in BY:
            raise unknown("--method: dropbp(by=…)", self.by, BY)
        if self.by == "sensitivity" and self.draw != "each":
            raise UserError(
                f"--method: dropbp(draw={self.draw!r}): by sensitivity each branch is drawn at its own rate; leave "
                "draw out"
            )
        if self.by == "sensitivity" and self.rate > MOST:
            raise UserError(
                f"--method: dropbp(rate={self.rate}): by sensitivity no branch has a rate above {MOST}; rate must be "
                f"at most {MOST}"
            )

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """The rate."""
        return (Numbers("rate", (0.25, 0.5, 0.75)),)

    @classmethod
    def axes_if_named(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """By what rates go."""
        return (Choices("by", BY),)

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
        known = f"{DRAWS} steps, drawn as a training draws them, stand for all"
        if self.by == "sensitivity":
            known = f"{DRAWS} steps, drawn at one rate, stand for all; the rates follow from the images"
        return Steps(
            tuple((1 / DRAWS, _skipping(some)) for some in drawn),
            known,
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
        if self.by == "all":
            return tape
        return remembering(tape, (len(_branches(len(tape.blocks))),))

    def apply(self, model: nn.Module) -> nn.Module:
        """Let branches be skipped."""
        from bsr_explorer.methods.applied.moving import let_skip, remember

        branches = _branches(len(blocks_of(model)))
        let_skip(model, branches)
        if self.by == "sensitivity":
            remember(model, next(model.parameters()).new_full((len(branches),), self.rate))
        return model

    @property
    def looks(self) -> int:
        """One batch, where rates go by sensitivity."""
        return int(self.by == "sensitivity")

    def looking(self, model: nn.Module, room: int) -> Iterator[AbstractContextManager[None]]:
        """A round of the whole step, and one for each branch, which it skips."""
        from bsr_explorer.methods.applied.dropbp import Norms, apart, computed, noting

        if self.by == "all":
            return
        branches, whole = _branches(len(blocks_of(model))), Norms()
        yield noting(model, EVERYTHING, whole)
        found = []
        for branch in branches:
            without = Norms()
            yield noting(model, _skipping((branch,)), without)
            found.append(apart(whole, without))
        rates = model.get_buffer(VALUES)
        rates.copy_(rates.new_tensor(allotted(found, computed(model, branches), self.rate)))

    def choose(self, model: nn.Module, done: int, total: int) -> Shape:
        """Some branches, drawn anew."""
        import torch

        branches = _branches(len(blocks_of(model)))
        if self.draw == "count":
            places = drawn(self.count(len(branches) // 2), len(branches))
            return _skipping(tuple(branches[place] for place in places))
        rates = [self.rate] * len(branches)
        if self.by == "sensitivity":
            from bsr_explorer.methods.applied.moving import turned

            memory = turned(model).memory  # a GPU is asked for them once
            if "rates" not in memory:
                memory["rates"] = model.get_buffer(VALUES).tolist()
            rates = memory["rates"]
        chances = torch.rand(len(branches)).tolist()
        drawn_now = zip(branches, chances, rates, strict=True)
        return _skipping(tuple(branch for branch, chance, rate in drawn_now if chance < rate))


def allotted(sensitivities: Sequence[float], costs: Sequence[int], rate: float) -> list[float]:
    """Rates of branches, in tenths up to ``MOST``, with which at least a share of what they compute is skipped.

    Args:
        costs: what each computes.
        rate: the share, at most ``MOST``.
    """
    tenths, left = [0] * len(costs), float(sum(costs))
    target = (1 - rate) * left
    waiting = [(sensitivity, branch) for branch, sensitivity in enumerate(sensitivities)]
    heapify(waiting)
    while waiting and left > target * (1 + 1e-9):
        _, branch = heappop(waiting)
        tenths[branch] += 1
        left -= costs[branch] / 10
        if tenths[branch] < round(10 * MOST):
            heappush(waiting, (sensitivities[branch] * (tenths[branch] + 1), branch))
    return [count / 10 for count in tenths]


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
