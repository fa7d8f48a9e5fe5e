"""Methods that drop tokens at one rate, at each quarter of the depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.arguments import bare
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import TOKENS, Method

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry

RATES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""The rates of EViT's authors."""


@dataclass(frozen=True, eq=False, repr=False)
class AtQuarters(Method):
    """Token drops at one rate; written ``evit(0.7)``.

    Attributes:
        keep: keep rate in (0, 1] of the patch tokens in the block at each quarter of the depth (3, 6 and 9 of 12).
    """

    keep: float = bare(0.7)

    chooses: ClassVar[tuple[str, ...]] = (TOKENS,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", checked_rate(self.name, self.keep))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """The rates."""
        return (Numbers("keep", RATES),)

    @property
    def at_inference(self) -> Method | None:
        """Itself where it drops tokens."""
        return self if self.keep < 1 else None


def checked_rate(method: str, keep: object) -> float:
    """A keep rate.

    Raises:
        UserError: it is none.
    """
    if isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 < keep <= 1:
        raise UserError(f"--method: {method}(keep={keep!r}): a keep rate must be above 0 and at most 1")
    return float(keep)
