"""A space as the exact-cost sampler sees it: its configurations as rows of features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.config import Config
from bsr_explorer.search.axes import orders
from bsr_explorer.search.choices import Candidate
from bsr_explorer.search.features import STORING, Floats, Profile, Table, profile
from bsr_explorer.search.members import Members
from bsr_explorer.store.study import Study
from bsr_explorer.train.recipes import recipe


class Rows:
    """Rows of ``features.Table`` of a study's configurations.

    Args:
        study: what is trained, and how.
        depth: blocks of the model.
        members: of the study's families.
        others: configurations that may be of none.
    """

    def __init__(
        self, study: Study, depth: int, members: Sequence[Members], others: Sequence[Candidate]
    ) -> None:
        self.study, self.depth, self.members, self.others = study, depth, members, others
        self._lr = recipe(study.fidelity.recipe, study.data).lr
        self._orders = orders([each.family for each in members], STORING)

    def _profile(self, config: Config) -> Profile:
        return profile(self.study.fidelity.at(config), self._lr, self._orders)

    @cached_property
    def _kinds(self) -> list[list[Profile]]:
        """Of each family, the profiles that its rows are made of."""
        config = self.study.config
        return [[self._profile(config.with_method(m)) for m in each.kinds()] for each in self.members]

    @cached_property
    def drop(self) -> bool:
        """Whether tokens are dropped by any of the others, or of the ``kinds``."""
        others = [self._profile(candidate.config) for candidate in self.others]
        return any(min(each.tokens) < 0 for each in itertools.chain(others, *self._kinds))

    @cached_property
    def table(self) -> Table:
        """The columns: for every way to store, and to train parts, that may come up."""
        of_families = [profile for kinds in self._kinds for profile in kinds]
        return Table(self.depth, [*(self._profile(c.config) for c in self.others), *of_families])

    @cached_property
    def _of_kinds(self) -> list[Floats]:
        return [self.table.rows(kinds) for kinds in self._kinds]

    def of(self, candidates: Sequence[Candidate]) -> Floats:
        """(n, width) of any configurations."""
        return self.table.rows([self._profile(candidate.config) for candidate in candidates])

    def of_members(
        self, place: int, chosen: NDArray[np.intp], rates: Sequence[float | None], sizes: Sequence[int]
    ) -> Floats:
        """(n, width) of members of one family.

        Args:
            place: of the family.
            chosen: (n,) members.
            rates, sizes: (n,) each one's learning rate and images a step.
        """
        rows = self.members[place].rows(self._of_kinds[place], chosen)
        logs = {rate: 0.0 if rate is None else math.log(rate / self._lr) for rate in set(rates)}
        rows[:, self.table.lr] = [logs[rate] for rate in rates]
        rows[:, self.table.lr + 1] = [math.log2(size) for size in sizes]
        return rows
