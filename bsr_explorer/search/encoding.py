"""A space as Optuna's parameters: one fixed encoding, so that a study's database can be taken up again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bsr_explorer.errors import UserError
from bsr_explorer.methods import Method
from bsr_explorer.methods.axes import Params
from bsr_explorer.search.axes import named
from bsr_explorer.search.members import Members

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

METHOD = "method"
"""The parameter that says which family a configuration is of, or which one it is where it is of none."""


class Encoding:
    """Parameters: the family, or a configuration beside them all; those of every axis; and how it is run.

    Args:
        members: of the families.
        beside: canonical expressions of what no family holds.
        ways: further parameters that have several values, by name.
    """

    def __init__(
        self, members: Sequence[Members], beside: Iterable[str], ways: Mapping[str, Sequence[Any]]
    ) -> None:
        self.members = {each.family.text: each for each in members}
        self.choices: dict[str, Sequence[Any]] = {METHOD: list(dict.fromkeys([*self.members, *beside]))}
        self.rest: Params = {}
        for each in members:
            for part, axis in each.family.axes:
                self.choices |= {named(part.method, n): c for n, c in axis.parameters.items()}
                self.rest |= part.named(axis.said())
        self.ways = {name: sorted(values) for name, values in ways.items() if len(values) > 1}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's, by name, in their order."""
        from optuna.distributions import (
            CategoricalDistribution,  # what does not fit is refused without Optuna
        )

        return {name: CategoricalDistribution(list(c)) for name, c in {**self.choices, **self.ways}.items()}

    def encode(self, text: str, own: Params, ways: Mapping[str, Any]) -> Params:
        """Parameters of a configuration.

        Args:
            text: of its family, or its own canonical expression.
            own: parameters of its choices.
            ways: how it is run.
        """
        return {METHOD: text, **self.rest, **own, **{name: ways[name] for name in self.ways}}

    def chosen(self, params: Mapping[str, Any]) -> Members | None:
        """The family of parameters; None: a configuration beside."""
        return self.members.get(params[METHOD])

    def made(self, members: Members, params: Mapping[str, Any]) -> Method | None:
        """The method that parameters say; None, where one of its parts refuses them."""
        try:
            return members.family.make(members.family.chosen(params))
        except UserError:
            return None
