"""WTA-CRS: of what a linear layer reads, some rows are kept, by which its weight's gradient is right on average.

The forward pass is exact, and so is the gradient that is passed on. (``storages.sampled`` has the mathematics.) One
thing differs from the authors: they draw a row in proportion to its length times the length of its gradient at the
sample's last visit, which they keep for every sample and every layer; here its length alone decides. (Such a table
has a number for each training image and layer. Its bytes would follow from the data, which a configuration does not
know, and batches, which are images and labels to all that trains on them, would have to say which images they are, down
to the storage of a layer.) The mean is right for any probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.axes import Axis, Choices, Numbers
from bsr_explorer.methods.storing_linears import StoringLinears
from bsr_explorer.storages import Packing, Sampled

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class WtaCrs(StoringLinears):
    """Chosen linear layers keep some rows of their inputs.

    Attributes:
        on: see ``StoringLinears``.
        ratio: rows that are kept, over all.
    """

    ratio: float = 0.3

    name: ClassVar[str] = "wtacrs"
    summary: ClassVar[str] = "linear layers keep some rows of what they read"
    citation: ClassVar[str] = (
        "Liu et al., Winner-Take-All Column Row Sampling for Memory Efficient Adaptation of Language Model, NeurIPS "
        "2023 (arXiv 2305.15265)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            isinstance(self.ratio, bool)
            or not isinstance(self.ratio, (int, float))
            or not 0 < self.ratio <= 1
        ):
            raise UserError(f"--method: wtacrs(ratio={self.ratio!r}): ratio must be above 0 and at most 1")
        object.__setattr__(self, "ratio", float(self.ratio))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Ratios; the layers that it has by itself, if a study names no others."""
        return Numbers("ratio", (0.1, 0.3, 0.5)), Choices("on", (("qkv", "fc2"),))

    def packing(self, channels: int) -> Packing:
        """See ``StoringLinears``."""
        return Sampled(self.ratio)
