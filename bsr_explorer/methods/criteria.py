"""By what patch tokens are dropped: what a method says of it, and which models can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.axes import Choices
from bsr_explorer.models.base import CRITERIA

CLASS_ATTENTION = "class_attention"
"""The authors' criterion."""


def check_criterion(method: str, criterion: object) -> None:
    """Refuse what is no criterion.

    Raises:
        UserError: with those that there are.
    """
    if criterion not in CRITERIA:
        raise UserError(
            f"--method: {method}(criterion={criterion!r}): tokens can be dropped by {', '.join(CRITERIA)}; choose one "
            "of them"
        )


def criteria_of(class_token: bool) -> tuple[str, ...]:
    """Those that a model with a class token, or one without, can give."""
    return tuple(each for each in CRITERIA if class_token or each != CLASS_ATTENTION)


def instead() -> str:
    """What a model without a class token can be told, as a part of a sentence."""
    *most, last = (f"'{each}'" for each in criteria_of(class_token=False))
    return f"choose criterion={', '.join(most)} or {last}"


@dataclass(frozen=True)
class Criteria(Choices):
    """One of the criteria that a model can give."""

    def only(self, asked: Any, where: str) -> Self:
        """``asked``: a list of them."""
        for value in asked if isinstance(asked, (list, tuple)) else ():
            if value not in self.among:
                raise unknown(where, str(value), self.among)
        return super().only(asked, where)
