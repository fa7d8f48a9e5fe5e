"""Steps that differ within one training: what may change from step to step, and how often what is expected."""

from __future__ import annotations

from dataclasses import dataclass


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
class Steps:
    """The steps of a training, as they are known before it.

    Attributes:
        expected: shapes with their shares of the steps, which add up to 1. One may stand for several that save and
            compute the same.
        fullest: shapes of which one holds the most that any step can.
        known: how the shares are known, in words.
    """

    expected: tuple[tuple[float, Shape], ...]
    fullest: tuple[Shape, ...]
    known: str
