"""The space of a search with its known costs: what exists, what fits, and how to propose from it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.config import Config
from bsr_explorer.cost.grid import Grid
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Method, parse_method
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.prediction import check_ruled, geometry_of, is_ruled
from bsr_explorer.search.axes import Family, check_bsr, families
from bsr_explorer.search.axes import default_space as default_space
from bsr_explorer.search.choices import NO_PROXIES, TRIES, Pool
from bsr_explorer.search.choices import Candidate as Candidate
from bsr_explorer.search.encoding import Encoding
from bsr_explorer.search.features import Floats
from bsr_explorer.search.index import Index
from bsr_explorer.search.laid import Laid, adds_up
from bsr_explorer.search.listed import Listed
from bsr_explorer.search.members import Members, Ways
from bsr_explorer.search.pool import Rows
from bsr_explorer.store.study import Study
from bsr_explorer.units import format_bytes

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from bsr_explorer.search.prior import Prior


class Space:
    """All configurations of a study.

    Args:
        study: its budget and accounting decide what fits.

    Attributes:
        members: of each family, those whose costs are laid out first.
        batch_sizes: images a step that may be chosen.
        rates: learning rates that may be chosen; None is the recipe's own.
        at_least: whether the sizes of what is laid out are only the least that a configuration takes: on a GPU a
            budget counts what the allocator makes of a step, which is followed for each configuration that is looked
            at by itself.
        known: the configurations to try first, at the first of these sizes and rates.
        unruled: what would be tried first, but the accounting of the budget has no rule for it.
        beside: configurations that no family holds (linear probing, full fine-tuning, …).
        prior: what an earlier study found, if the study begins with one.
    """

    prior: Prior | None = None
    efforts: Floats = NO_PROXIES

    def __init__(self, study: Study) -> None:
        self.study = study
        self.geometry = geometry_of(study.config)
        self.depth = self.geometry.depth
        self.batch_sizes = list(study.space.batch_sizes) or [study.config.batch_size]
        self.rates: list[float | None] = [*study.space.lr] or [study.config.lr]
        for size in self.batch_sizes:
            replace(study.config, batch_size=size)  # which refuses what does not go together
        check_bsr(study.space, self.geometry)
        self.at_least = study.config.caches and study.counts in ("peak", "reserved", "device")
        self._ways = Ways(study.config, tuple(self.batch_sizes), study.counts, study.quantile)
        self.members: list[Members] = []
        self._index = Index(self.members, self.rates, self.batch_sizes, self.depth)
        for family in sorted(
            families(study.space, self.geometry), key=lambda f: not adds_up(f, self.geometry)
        ):
            self.members.append(self._members(family))
        start = [parse_method(text) for text in study.space.start]
        self.unruled = [method for method in start if not self._is_ruled(method)]
        self.known: list[Candidate] = [self.candidate(m) for m in start if m not in self.unruled]
        others = [
            self.candidate(known.config.how, size, rate)
            for size, rate in itertools.product(self.batch_sizes, self.rates)
            for known in self.known
        ]
        outside = {c.key: c for c in (*self.known, *others) if self._index_of(c) is None}
        self.beside: list[Candidate] = list(outside.values())
        self._rows = Rows(study, self.depth, self.members, [*self.known, *self.beside])

    def _members(self, family: Family) -> Members:
        if not adds_up(family, self.geometry):
            return Listed(family, self._ways, lambda method: self._index.find(method) is not None)
        laid = Laid(family, self._ways)
        check_ruled(self.study.config.with_method(laid.method(0)), self.study.counts)
        if self._index.find(laid.method(0).canonical(self.depth)) is not None:
            raise UserError(
                f"[space] families: {family.text!r} and another family hold the same configurations; keep one"
            )
        return laid

    def _is_ruled(self, method: Method) -> bool:
        return self.study.counts != "published" or is_ruled(self.study.config.with_method(method))

    @property
    def differs(self) -> bool:
        """Whether steps of any configuration may differ, so that a quantile of them says something."""
        kinds = [part.method for each in self.members for part in each.family.parts]
        kinds += [type(part) for known in self.known for part in parts_of(known.config.how)]
        return any(kind.steps is not Method.steps or kind.phases is not Method.phases for kind in kinds)

    # --- what exists and what fits ----------------------------------------------------------------------

    @property
    def grids(self) -> list[Grid]:
        """The costs that are laid out at once: of each family, one for each of what it adds to ``bsr``."""
        return [grid for each in self.members if isinstance(each, Laid) for grid in each.grids]

    @property
    def laid(self) -> list[tuple[str, Grid]]:
        """The same, each with what is added, as an expression: nothing for ``bsr`` itself."""
        return [each for members in self.members if isinstance(members, Laid) for each in members.added_grids]

    @property
    def drops(self) -> bool:
        """Whether any configuration drops tokens."""
        return self._rows.drop or any(rates for grid in self.grids for rates, _ in grid.schedules)

    @property
    def apart(self) -> Iterator[Candidate]:
        """What is in none of the ``grids``."""
        for place, each in enumerate(self.members):
            if not isinstance(each, Laid):
                yield from map(self.at, range(self._index.before(place), int(self._index.ends[place])))
        yield from self.beside

    @cached_property
    def _fitting(self) -> NDArray[np.intp]:
        """Flat indices of the members within the budget."""
        return np.flatnonzero(self._index.sizes <= self.study.budget_bytes)

    def _index_of(self, candidate: Candidate) -> int | None:
        """The flat index of a configuration, or None where no family holds it."""
        config = candidate.config.canonical(self.depth)
        if config.batch_size not in self.batch_sizes or config.lr not in self.rates:
            return None
        found = self._index.find(config.how)
        return None if found is None else self._index.at(*found, config.batch_size, config.lr)

    def holds(self, candidate: Candidate) -> bool:
        """Whether a configuration is one of this space."""
        return self._index_of(candidate) is not None or candidate.key in {c.key for c in self.beside}

    def __len__(self) -> int:
        return len(self._index.sizes) + len(self.beside)

    @property
    def fitting(self) -> int:
        """How many configurations are within the budget; no more than so many, if sizes are ``at_least``."""
        return len(self._fitting) + sum(self.fits(candidate) for candidate in self.beside)

    def fits(self, candidate: Candidate) -> bool:
        """Whether a configuration is within the budget."""
        return candidate.counted_bytes <= self.study.budget_bytes

    @property
    def budget_bytes(self) -> int:
        """The most memory."""
        return self.study.budget_bytes

    @property
    def range_bytes(self) -> tuple[int, int]:
        """Least and most memory of any configuration, by the study's accounting."""
        beside = [c.counted_bytes for c in self.beside]
        sizes = [int(self._index.sizes.min()), int(self._index.sizes.max()), *beside]
        return min(sizes), max(sizes)

    def check_budget(self) -> None:
        """Refuse a budget that nothing fits.

        Raises:
            UserError: with what the smallest configuration needs.
        """
        least = self.smallest.counted_bytes if self.at_least else self.range_bytes[0]
        if self.study.budget_bytes < least:
            raise UserError(
                f"--budget: {self.study.budget} is less than the smallest configuration needs, "
                f"{format_bytes(least)} at batch {min(self.batch_sizes)} counting "
                f"{self.study.counts}; raise it, or lower --batch-size"
            )

    # --- candidates -------------------------------------------------------------------------------------

    def candidate(
        self, method: Method, batch_size: int | None = None, rate: float | None = None
    ) -> Candidate:
        """A method of this space, with its costs; at the first of the batch sizes and rates if none is said."""
        config = self._config(method, batch_size or self.batch_sizes[0], rate or self.rates[0])
        size, flops = self._ways.costs(method, config.batch_size)
        return Candidate(config, config.key(self.depth), size, flops)

    def _config(self, method: Method, batch_size: int, rate: float | None) -> Config:
        return replace(self.study.config, method=method, batch_size=batch_size, lr=rate)

    def at(self, index: int) -> Candidate:
        """The configuration at a flat index."""
        place, rate, batch, member = self._index.place(index)
        method = self.members[place].method(member)
        if self.at_least:
            return self.candidate(method, self.batch_sizes[batch], self.rates[rate])
        config = self._config(method, self.batch_sizes[batch], self.rates[rate])
        flops = int(self.members[place].train_flops[batch, member])
        return Candidate(config, config.key(self.depth), int(self._index.sizes[index]), flops)

    @property
    def smallest(self) -> Candidate:
        """The configuration of the families with the least memory."""
        return self.at(int(self._index.sizes.argmin()))

    def sample(self, generator: np.random.Generator, low: float, high: float) -> Candidate | None:
        """A random configuration within the budget whose memory is in [low, high] bytes, or None.

        The family and the number of trained blocks are drawn first, or large subsets, being many, would be all one
        sees.
        """
        sizes = self._index.sizes[self._fitting]
        inside: NDArray[np.intp] = self._fitting[(sizes >= low) & (sizes <= high)]
        if not len(inside):
            return None
        strata = self._index.strata[inside]
        for _ in range(TRIES if self.at_least else 1):
            chosen = generator.choice(np.unique(strata))
            found = self.at(int(generator.choice(inside[strata == chosen])))
            if self.fits(found):
                return found
        return None

    def each(self, generator: np.random.Generator) -> Iterator[Candidate]:
        """Every configuration within the budget, in random order, those of no family last."""
        for index in generator.permutation(self._fitting):
            if self.fits(found := self.at(int(index))):
                yield found
        yield from filter(self.fits, self.beside)

    # --- the same, as a surrogate sees it, and as Optuna's parameters --------------------------------------

    def rows(self, candidates: Sequence[Candidate]) -> Floats:
        """(n, width) of ``features.Table``."""
        return self._rows.of(candidates)

    def pool(self, generator: np.random.Generator, most: int, near: Sequence[Candidate]) -> Pool:
        """Up to so many members within the budget, as many of each family and number of trained blocks; the
        neighbours of some configurations; and what no family holds."""
        chosen = self._fitting
        if len(chosen) > most:
            chosen = self._index.spread(chosen, most, generator)
        here = [index for candidate in near if (index := self._index_of(candidate)) is not None]
        sizes, most_bytes = self._index.sizes, self.study.budget_bytes
        around = [o for index in here for o in self._index.around(index) if sizes[o] <= most_bytes]
        chosen = np.unique(np.concatenate([chosen, np.array(around, dtype=chosen.dtype)]))
        beside = [candidate for candidate in self.beside if self.fits(candidate)]
        more = np.array([(c.counted_bytes, c.train_flops) for c in beside], dtype=np.int64).reshape(-1, 2)
        rows, flops = [], []
        for place, each in enumerate(self.members):
            rate, batch, member = self._index.within(place, chosen)
            how = [self.rates[i] for i in rate], [self.batch_sizes[i] for i in batch]
            rows.append(self._rows.of_members(place, member, *how))
            flops.append(each.train_flops[batch, member])
        costs = np.stack([sizes[chosen], np.concatenate(flops)], axis=1)

        def at(row: int) -> Candidate:
            return self.at(int(chosen[row])) if row < len(chosen) else beside[row - len(chosen)]

        most_flops = max(int(each.train_flops.max()) for each in self.members)
        return Pool(np.concatenate([*rows, self.rows(beside)]), np.concatenate([costs, more]), most_flops, at)

    @cached_property
    def _encoding(self) -> Encoding:
        beside = (str(c.config.canonical(self.depth).how) for c in self.beside)
        return Encoding(self.members, beside, {"batch_size": self.batch_sizes, "lr": self.rates})

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """One fixed encoding: the family (or a configuration beside), and a parameter or more an axis: a bit a block, a
        keep rate a drop location, fused or not, …"""
        return self._encoding.distributions

    def encode(self, candidate: Candidate) -> dict[str, Any]:
        """Optuna's parameters of a configuration of this space."""
        ways = {"batch_size": candidate.config.batch_size, "lr": candidate.config.lr}
        index = self._index_of(candidate)
        if index is None:
            return self._encoding.encode(str(candidate.config.canonical(self.depth).how), {}, ways)
        place, _, _, member = self._index.place(index)
        each = self.members[place]
        return self._encoding.encode(each.family.text, each.said(member), ways)

    def decode(self, params: dict[str, Any]) -> Candidate:
        """The configuration of Optuna's parameters; of more blocks than may train, the topmost do.

        What is known goes by the name that the study gives it.
        """
        size = params.get("batch_size", self.batch_sizes[0])
        rate = params.get("lr", self.rates[0])
        each = self._encoding.chosen(params)
        if each is None:
            candidate = self._beside[params["method"], size, rate]
        else:
            method = self._encoding.made(each, params)
            found = None if method is None else self._index.find(method.canonical(self.depth))
            found = found or (self.members.index(each), each.nearest(params))
            candidate = self.at(self._index.at(*found, size, rate))
        return self._named.get(candidate.key, candidate)

    def asked(self, params: dict[str, Any], done: Collection[str]) -> Candidate:
        """The configuration of parameters that a sampler asks for."""
        return self.decode(params)

    @cached_property
    def _beside(self) -> dict[tuple[str, int, float | None], Candidate]:
        """What no family holds, by its canonical method and how it is run."""
        return {
            (str(c.config.canonical(self.depth).how), c.config.batch_size, c.config.lr): c
            for c in self.beside
        }

    @cached_property
    def _named(self) -> dict[str, Candidate]:
        """The known configurations by key, by the names that the study gives them."""
        return {known.key: known for known in self.known}
