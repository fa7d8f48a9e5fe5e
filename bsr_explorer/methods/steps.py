"""Steps that differ within one training: what may change from step to step, and how often what is expected."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Shape:
    """What one step leaves out of what a training may do; all that costs depend on.

    Attributes:
        rests: module paths, or names, of what does not train in it, though it may.
        skips: module paths of residual branches (``blocks.3.attn``) through which no gradient passes.
        tokens: for 0-based blocks, how many patch tokens of an image go on from there at most.
    """

    rests: tuple[str, ...] = ()
    skips: tuple[str, ...] = ()
    tokens: tuple[tuple[int, int], ...] = ()

    def rests_at(self, name: str) -> bool:
        """Whether a parameter of this state-dict name does not train."""
        return any(name == path or name.startswith(f"{path}.") for path in self.rests)

    def __str__(self) -> str:
        parts = {"at rest": self.rests, "skipped": self.skips, "tokens": self.tokens}
        said = [f"{what} {', '.join(map(str, which))}" for what, which in parts.items() if which]
        return "; ".join(said) or "all trains"


EVERYTHING = Shape()
"""All that may train does."""


@dataclass(frozen=True)
class Choice:
    """In each step so many of some parts train; which ones, differs.

    Attributes:
        among: the parts: module paths.
        count: how many.
    """

    among: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class Steps:
    """The steps of a training, as they are known before it.

    Attributes:
        expected: shapes with their shares of the steps, which add up to 1.
        known: how these are known, in words.
        choices: what every step chooses of; none: a step may let all train.
        shape: that of a step, by the parts that do not train.
    """

    expected: tuple[tuple[float, Shape], ...]
    known: str
    choices: tuple[Choice, ...] = ()
    shape: Callable[[tuple[str, ...]], Shape] = Shape

    def training(self, parts: Collection[str]) -> Shape:
        """The shape of a step in which, of what is chosen among, these parts train."""
        return self.shape(
            tuple(part for choice in self.choices for part in choice.among if part not in parts)
        )


DRAWS = 16
"""Steps that stand for all where there are too many different ones."""


def drawn_from(
    choices: tuple[Choice, ...], shape: Callable[[tuple[str, ...]], Shape], seed: str, known: str
) -> Steps:
    """Steps of which each chooses evenly.

    Args:
        shape: see ``Steps``.
        seed: by which those are drawn that stand for all, always the same.
        known: in words, before how many stand for all.
    """
    rng = random.Random(seed)
    steps = Steps((), "", choices, shape)
    drawn = [
        steps.training({part for choice in choices for part in rng.sample(choice.among, choice.count)})
        for _ in range(DRAWS)
    ]
    kinds = Counter(drawn)
    expected = tuple((count / DRAWS, one) for one, count in kinds.items())
    return replace(steps, expected=expected, known=f"{known}; {DRAWS} steps, evenly drawn, stand for all")
