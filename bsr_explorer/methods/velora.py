"""VeLoRA: of what a linear layer reads, one number for each part of a token is kept.

The forward pass is exact, and so is the gradient that is passed on. That of the weight is the one of x̂ = (x·v) ⊗ v:
each token is cut into ``groups`` parts, and v is the normalised mean of the parts of the first batch, which stays as it
is and is saved with a checkpoint. With one channel a part, x̂ is x. (``storages.projected`` has the mathematics.)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import whole_number
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.axes import Axis, Choices, Numbers
from bsr_explorer.methods.storing_linears import StoringLinears
from bsr_explorer.storages import Packing, Projected

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Velora(StoringLinears):
    """Chosen linear layers keep projections of their inputs.

    Attributes:
        on: see ``StoringLinears``.
        groups: parts of a token, which divide the channels of every chosen layer's input.
        scale: a factor of the weights' gradients.
    """

    groups: int = 32
    scale: float = quiet(1.0)

    name: ClassVar[str] = "velora"
    summary: ClassVar[str] = "linear layers keep a number for each part of a token they read"
    citation: ClassVar[str] = (
        "VeLoRA: Memory Efficient Training using Rank-1 Sub-Token Projections (NeurIPS 2024, arXiv 2405.17991)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self, "groups")
        if (
            isinstance(self.scale, bool)
            or not isinstance(self.scale, (int, float))
            or not 0 < self.scale < inf
        ):
            raise UserError(f"--method: velora(scale={self.scale!r}): scale must be a number above 0")
        object.__setattr__(self, "scale", float(self.scale))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Groups; the paper's layers, if a study names no others."""
        return Numbers("groups", (8, 16, 32)), Choices("on", (("qkv", "fc2"),))

    def packing(self, channels: int) -> Packing:
        """See ``StoringLinears``."""
        if channels % self.groups:
            allowed = [str(parts) for parts in range(1, channels + 1) if channels % parts == 0]
            raise UserError(
                f"--method: velora(groups={self.groups}): a layer of {', '.join(self.on)} reads {channels} channels, "
                f"which {self.groups} groups do not divide; choose {', '.join(allowed)}"
            )
        return Projected(channels // self.groups, self.scale)
