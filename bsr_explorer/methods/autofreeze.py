"""AutoFreeze: blocks stop training from the lowest up, as soon as they change ever less.

Every few steps each block's change over them is compared with its change over those before. The lowest blocks of which
the change shrank, by no more than a percentile of all that still train, are frozen for good, with all that stands below
them: they keep nothing for backward from then on, and neither gradient nor optimiser's state are needed. The authors
compare accumulated gradients, which would have to be held; here it is what these did to the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import whole_number
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.observed import Observed
from bsr_explorer.methods.steps import EVERYTHING, Shape, Steps
from bsr_explorer.naming import TIMM, Naming, blocks_of, naming_of

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class AutoFreeze(Observed):
    """Blocks are frozen for good from the lowest up, as they change less.

    Attributes:
        every: steps after which it is judged.
        percentile: in (0, 100]: up to which one of the relative changes between two judgements a block may be frozen.
    """

    every: int = 5
    percentile: float = quiet(50.0)

    name: ClassVar[str] = "autofreeze"
    summary: ClassVar[str] = "blocks are frozen from the lowest up, as soon as they change less"
    citation: ClassVar[str] = "Liu et al., AutoFreeze (arXiv 2102.01386)"

    def __post_init__(self) -> None:
        whole_number(self, "every")
        most: Any = self.percentile
        if isinstance(most, bool) or not isinstance(most, (int, float)) or not 0 < most <= 100:
            raise UserError(
                f"--method: autofreeze(percentile={most!r}): percentile must be above 0 and at most 100, such as 50"
            )
        object.__setattr__(self, "percentile", float(most))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How often it is judged."""
        return (Numbers("every", (2, 5, 10)),)

    @property
    def forgets(self) -> bool:
        """What is frozen for good needs no state."""
        return True

    def steps(self, depth: int) -> Steps:
        """All trains at first; when what is frozen follows from the images."""
        shapes = [_frozen_below(block) for block in range(depth)]
        return Steps(
            tuple((1 / depth, shape) for shape in shapes),
            "when blocks are frozen follows from the images: the mean is of all numbers of frozen blocks, alike",
        )

    def check_length(self, steps: int) -> None:
        """It can be judged twice."""
        if steps <= 2 * self.every:
            raise UserError(
                f"--method: {self} compares two spans of {self.every} steps, and the training has {steps}; let every "
                f"be at most {max(1, (steps - 1) // 2)}, or train for longer"
            )

    def weights(self, parameters: Iterable[tuple[str, int]], depth: int, naming: Naming) -> list[str]:
        """See ``Observed``: the largest weight of each block."""
        largest: dict[int, tuple[int, str]] = {}
        for name, size in parameters:
            block = naming.block_of(name)
            if block is not None and size > largest.get(block, (0, ""))[0]:
                largest[block] = (size, name)
        return [largest[block][1] for block in range(depth)]

    def choose(self, model: nn.Module, done: int, total: int) -> Shape:
        """More blocks are frozen, when it is time."""
        from bsr_explorer.methods.applied.moving import turned

        now, naming = turned(model), naming_of(model)
        memory = now.memory
        frozen: int = memory.setdefault("frozen", 0)
        if done and done % self.every == 0:
            changes = self.changes(model)
            before: list[float] | None = memory.get("changes")
            if before is not None:
                memory["frozen"] = frozen = self._frozen(frozen, before, changes)
            memory["changes"] = changes
        return _frozen_below(min(frozen, len(blocks_of(model)) - 1), naming)

    def _frozen(self, frozen: int, before: list[float], now: list[float]) -> int:
        """How many of the lowest blocks are frozen, given how much each changed; the highest one never is."""
        relative = [abs(b - n) / max(b, 1e-12) for b, n in zip(before, now, strict=True)][frozen:]
        limit = sorted(relative)[max(0, round(self.percentile / 100 * len(relative)) - 1)]
        for change, b, n in zip(relative[:-1], before[frozen:], now[frozen:], strict=False):
            if change > limit or n > b:
                break
            frozen += 1
        return frozen


def _frozen_below(block: int, naming: Naming = TIMM) -> Shape:
    """All below a block (0-based) is frozen."""
    if not block:
        return EVERYTHING
    return Shape(rests=(*naming.below, *(naming.path(each) for each in range(block))))
