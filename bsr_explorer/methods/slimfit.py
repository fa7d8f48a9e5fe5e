"""SlimFit: of the linear layers, those whose weights change most train; the others are frozen for the step.

How much a layer changed is known from the last step that it trained in. Layers that have not trained yet come first.
The authors' scheduler has quotas so that memory is as planned; here a quota is one of each kind of layer (qkv,
projection, two of the MLP), so that each step saves as much, whichever blocks they are of. What else they do, storing
what must stay in fewer bits, is ``mesa`` or ``backrazor``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import LAYERS, linears
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.observed import Observed
from bsr_explorer.methods.steps import Choice, Shape, Steps, drawn_from
from bsr_explorer.naming import TIMM, Naming, blocks_of, naming_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class SlimFit(Observed):
    """The linear layers that change most train, and all that is no linear layer of a block.

    Attributes:
        freeze: share of the blocks, of each kind of linear layer, that is frozen in a step, in [0, 1); at least one
            of each kind trains.
    """

    freeze: float = 0.75

    name: ClassVar[str] = "slimfit"
    summary: ClassVar[str] = "in each step the linear layers whose weights change most train"
    citation: ClassVar[str] = "Ardakani et al., SlimFit, NAACL 2024 (arXiv 2305.18513)"

    def __post_init__(self) -> None:
        share: Any = self.freeze
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise UserError(
                f"--method: slimfit(freeze={share!r}): freeze must be at least 0 and below 1, such as 0.75"
            )
        object.__setattr__(self, "freeze", float(share))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """The share that is frozen."""
        return (Numbers("freeze", (0.5, 0.75, 0.9)),)

    def count(self, depth: int) -> int:
        """Layers of each kind that train."""
        return max(1, round((1 - self.freeze) * depth))

    def steps(self, depth: int) -> Steps:
        """Which layers train follows from the images."""
        count = self.count(depth)
        choices = tuple(
            Choice(tuple(f"{TIMM.path(block)}.{path}" for block in range(depth)), count)
            for path in LAYERS.values()
        )
        known = f"{count} of {depth} layers of each kind train, and which follows from the images"
        return drawn_from(choices, Shape, str(self), known)

    def weights(self, parameters: Iterable[tuple[str, int]], depth: int, naming: Naming) -> list[str]:
        """See ``Observed``: of each kind, those of all blocks."""
        return [f"{naming.path(block)}.{path}.weight" for path in LAYERS.values() for block in range(depth)]

    def rewrite(self, tape: Tape) -> Tape:
        """See ``Observed``.

        Raises:
            UserError: blocks of this architecture have not these layers.
        """
        list(linears(self, tape, tuple(LAYERS)))
        return super().rewrite(tape)

    def choose(self, model: nn.Module, done: int, total: int) -> Shape:
        """Of each kind those that changed most when they last trained."""
        from bsr_explorer.methods.applied.moving import turned

        depth, naming, now = len(blocks_of(model)), naming_of(model), turned(model)
        last = now.memory.setdefault("changes", [inf] * (len(LAYERS) * depth))
        changes = self.changes(model)
        if done:
            for place, name in enumerate(self.weights((), depth, naming)):
                if not now.shape.rests_at(name):
                    last[place] = changes[place]
        count = self.count(depth)
        rests = []
        for kind, path in enumerate(LAYERS.values()):
            mine = last[kind * depth : (kind + 1) * depth]
            order = sorted((-change, block) for block, change in enumerate(mine))
            rests += [
                f"{naming.path(block)}.{path}" for _, block in sorted(order[count:], key=lambda each: each[1])
            ]
        return Shape(tuple(rests))
