"""PaCA: random input columns of frozen weights train.

The gradient of columns W[:, i] is gᵀ·x[…, i]: of a layer's input, only the ``r`` channels that the columns read are
kept. The forward pass computes what the layer does, without another product (LoRA has two more).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.adding import LAYERS, checked_layers
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.axes import Axis, Choices
from bsr_explorer.methods.partial import Lines

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Paca(Lines):
    """Random columns of chosen layers' weights, and the head, train.

    Attributes:
        r: see ``Lines``.
        on: which linear layers of all blocks: names of ``adding.LAYERS``.
    """

    on: tuple[str, ...] = quiet(tuple(LAYERS))

    name: ClassVar[str] = "paca"
    summary: ClassVar[str] = "random input columns of frozen linear layers train, and the head"
    citation: ClassVar[str] = "Woo et al., PaCA: Partial Connection Adaptation, ICLR 2025 (arXiv 2503.01905)"
    part: ClassVar[str] = "columns"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "on", checked_layers(self.name, self.on))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many columns, of all layers if a study names no others."""
        return *super().axes(geometry), Choices("on", (tuple(LAYERS),))

    @property
    def layers(self) -> tuple[str, ...]:
        """See ``Partial``."""
        return self.on
