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
from bsr_explorer.methods import Bsr, Method, parse_method
from bsr_explorer.methods.axes import MOST_SUBSETS, Schedules, Subsets
from bsr_explorer.models.base import Geometry
from bsr_explorer.prediction import geometry_of
from bsr_explorer.search.axes import Family, families
from bsr_explorer.search.choices import Candidate as Candidate
from bsr_explorer.search.choices import Pool
from bsr_explorer.search.encoding import Encoding
from bsr_explorer.search.features import Floats
from bsr_explorer.search.laid import Laid, adds_up
from bsr_explorer.search.listed import Listed
from bsr_explorer.search.members import Members, Ways
from bsr_explorer.search.pool import Rows
from bsr_explorer.store.study import SpaceSpec, Study
from bsr_explorer.units import format_bytes

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def default_space(geometry: Geometry) -> SpaceSpec:
    """Subsets of blocks, all of them for up to 16 blocks; drops at each quarter of the depth; the known
    configurations first."""
    depth = geometry.depth
    stretched = Bsr.stretched(depth)
    paper = [str(stretched)] if geometry.class_token else []
    last = [f"last(k={k})" for k in (1, 3, depth // 2) if 1 <= k < depth]
    start = ["linear", *paper, *last, str(Bsr(stretched.blocks, {})), "checkpoint", "full"]
    blocks, keep, _ = Bsr.axes(geometry)
    assert isinstance(blocks, Subsets)
    assert isinstance(keep, Schedules)
    return SpaceSpec(tuple(dict.fromkeys(start)), blocks.most, keep.at)


def proxy_sizes(config: Config) -> list[int]:
    """Image sizes to train at, largest first: the configuration's own, its half, its quarter."""
    patch = geometry_of(config).patch
    halves = [max(patch, round(config.image_size / part / patch) * patch) for part in (1, 2, 4)]
    return list(dict.fromkeys([config.image_size, *halves[1:]]))


class Space:
    """All configurations of a study.

    Args:
        study: its budget and accounting decide what fits.

    Attributes:
        members: of each family, those whose costs are laid out first.
        batch_sizes: images a step that may be chosen.
        rates: learning rates that may be chosen; None is the recipe's own.
        known: the configurations to try first, at the first of these sizes and rates.
        beside: configurations that no family holds (linear probing, full fine-tuning, …).
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.geometry = geometry_of(study.config)
        self.depth = self.geometry.depth
        self.batch_sizes = list(study.space.batch_sizes) or [study.config.batch_size]
        self.rates: list[float | None] = [*study.space.lr] or [study.config.lr]
        self._check(study.space)
        self._ways = Ways(study.config, tuple(self.batch_sizes), study.counts)
        self.members: list[Members] = []
        asked = families(study.space, self.geometry)
        for family in sorted(asked, key=lambda family: not adds_up(family, self.geometry)):
            self.members.append(self._members(family))
        self.known: list[Candidate] = [self.candidate(parse_method(text)) for text in study.space.start]
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
            return Listed(family, self._ways, lambda method: self._find(method) is not None)
        laid = Laid(family, self._ways)
        if self._find(laid.method(0).canonical(self.depth)) is not None:
            raise UserError(
                f"[space] families: {family.text!r} and another family hold the same configurations; keep one"
            )
        return laid

    def _check(self, spec: SpaceSpec) -> None:
        for size in self.batch_sizes:
            replace(self.study.config, batch_size=size)  # which refuses what does not go together
        depth, drop_at, most = self.geometry.depth, spec.drop_at or (), spec.max_blocks or 0
        beyond = [block for block in drop_at if not 0 <= block < depth]
        if beyond:
            raise UserError(
                f"[space] drop_at: block {beyond[0]} is out of range; use 0 to {depth - 1} (0-based)"
            )
        if drop_at and not self.geometry.class_token and min(spec.keep) < 1:
            raise UserError(
                f"[space] drop_at: {self.study.config.model} has no class token to drop tokens by"
            )
        if not 0 <= most <= depth:
            raise UserError(f"[space] max_blocks: {most} must be 0 to {depth}, the blocks of the model")
        subsets = len(Subsets("blocks", depth, most))
        if subsets > MOST_SUBSETS:
            raise UserError(
                f"[space] max_blocks: {depth} blocks have {subsets:,} subsets of at most {most}, more than the "
                f"{MOST_SUBSETS:,} that a search lays out; lower it"
            )

    # --- what exists and what fits ----------------------------------------------------------------------

    @property
    def grids(self) -> list[Grid]:
        """The costs that are laid out at once: of each family, one for each of what it adds to ``bsr``."""
        return [grid for each in self.members if isinstance(each, Laid) for grid in each.grids]

    @property
    def apart(self) -> Iterator[Candidate]:
        """What is in none of the ``grids``."""
        for place, each in enumerate(self.members):
            if not isinstance(each, Laid):
                yield from map(self.at, range(self._before(place), int(self._ends[place])))
        yield from self.beside

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Counted bytes of all members, flat: family by family, learning rates, batch sizes, members."""
        return np.concatenate([np.tile(each.bytes.ravel(), len(self.rates)) for each in self.members])

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Where each family's flat indices end."""
        return np.cumsum([each.bytes.size * len(self.rates) for each in self.members])

    @cached_property
    def _fitting(self) -> NDArray[np.intp]:
        """Flat indices of the members within the budget."""
        return np.flatnonzero(self._sizes <= self.study.budget_bytes)

    @cached_property
    def _strata(self) -> NDArray[np.int64]:
        """Of each flat index, one number for its family and how many of its blocks train."""
        return np.concatenate(
            [
                place * (self.depth + 1) + np.tile(each.trained, len(self.rates) * len(self.batch_sizes))
                for place, each in enumerate(self.members)
            ]
        )

    def _find(self, method: Method) -> tuple[int, int] | None:
        """The family and the member of a canonical method, or None."""
        for place, each in enumerate(self.members):
            member = each.find(method)
            if member is not None:
                return place, member
        return None

    def _index_of(self, candidate: Candidate) -> int | None:
        """The flat index of a configuration, or None where no family holds it."""
        config = candidate.config.canonical(self.depth)
        if config.batch_size not in self.batch_sizes or config.lr not in self.rates:
            return None
        found = self._find(config.how)
        return None if found is None else self._index(*found, config.batch_size, config.lr)

    def _index(self, place: int, member: int, size: int, rate: float | None) -> int:
        """The flat index of a member."""
        where = self.rates.index(rate), self.batch_sizes.index(size), member
        own = np.ravel_multi_index(where, (len(self.rates), *self.members[place].bytes.shape))
        return self._before(place) + int(own)

    def _before(self, place: int) -> int:
        """The first flat index of a family."""
        return int(self._ends[place - 1]) if place else 0

    def _place(self, index: int) -> tuple[int, int, int, int]:
        """Of a flat index: family, learning rate, batch size, member."""
        place = int(np.searchsorted(self._ends, index, side="right"))
        own = index - self._before(place)
        shape = (len(self.rates), *self.members[place].bytes.shape)
        rate, batch, member = (int(i) for i in np.unravel_index(own, shape))
        return place, rate, batch, member

    def holds(self, candidate: Candidate) -> bool:
        """Whether a configuration is one of this space."""
        return self._index_of(candidate) is not None or candidate.key in {c.key for c in self.beside}

    def __len__(self) -> int:
        return len(self._sizes) + len(self.beside)

    @property
    def fitting(self) -> int:
        """How many configurations are within the budget."""
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
        sizes = [int(self._sizes.min()), int(self._sizes.max()), *(c.counted_bytes for c in self.beside)]
        return min(sizes), max(sizes)

    def check_budget(self) -> None:
        """Refuse a budget that nothing fits.

        Raises:
            UserError: with what the smallest configuration needs.
        """
        least = self.range_bytes[0]
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
        place, rate, batch, member = self._place(index)
        method = self.members[place].method(member)
        config = self._config(method, self.batch_sizes[batch], self.rates[rate])
        flops = int(self.members[place].train_flops[batch, member])
        return Candidate(config, config.key(self.depth), int(self._sizes[index]), flops)

    @property
    def smallest(self) -> Candidate:
        """The configuration of the families with the least memory."""
        return self.at(int(self._sizes.argmin()))

    def sample(self, generator: np.random.Generator, low: float, high: float) -> Candidate | None:
        """A random configuration within the budget whose memory is in [low, high] bytes, or None.

        The family and the number of trained blocks are drawn first, or large subsets, being many, would be all one
        sees.
        """
        sizes = self._sizes[self._fitting]
        inside: NDArray[np.intp] = self._fitting[(sizes >= low) & (sizes <= high)]
        if not len(inside):
            return None
        strata = self._strata[inside]
        chosen = generator.choice(np.unique(strata))
        return self.at(int(generator.choice(inside[strata == chosen])))

    def each(self, generator: np.random.Generator) -> Iterator[Candidate]:
        """Every configuration within the budget, in random order, those of no family last."""
        for index in generator.permutation(self._fitting):
            yield self.at(int(index))
        yield from filter(self.fits, self.beside)

    # --- the same, as a surrogate sees it ----------------------------------------------------------------

    def rows(self, candidates: Sequence[Candidate]) -> Floats:
        """(n, width) of ``features.Table``."""
        return self._rows.of(candidates)

    def pool(self, generator: np.random.Generator, most: int, near: Sequence[Candidate]) -> Pool:
        """Up to so many members within the budget, as many of each family and number of trained blocks; the
        neighbours of some configurations; and what no family holds."""
        chosen = self._fitting
        if len(chosen) > most:
            strata = self._strata[chosen]
            rarity = 1 / np.bincount(strata)[strata]
            chosen = generator.choice(chosen, most, replace=False, p=rarity / rarity.sum())
        around = [index for candidate in near for index in self._around(candidate)]
        around = [index for index in around if self._sizes[index] <= self.study.budget_bytes]
        chosen = np.unique(np.concatenate([chosen, np.array(around, dtype=chosen.dtype)]))
        beside = [candidate for candidate in self.beside if self.fits(candidate)]
        more = np.array([(c.counted_bytes, c.train_flops) for c in beside], dtype=np.int64).reshape(-1, 2)
        parts = [self._part(place, chosen) for place in range(len(self.members))]
        rows, costs = (list(each) for each in zip(*parts, strict=True))

        def at(row: int) -> Candidate:
            return self.at(int(chosen[row])) if row < len(chosen) else beside[row - len(chosen)]

        most_flops = max(int(each.train_flops.max()) for each in self.members)
        return Pool(
            np.concatenate([*rows, self.rows(beside)]), np.concatenate([*costs, more]), most_flops, at
        )

    def _part(self, place: int, chosen: NDArray[np.intp]) -> tuple[Floats, NDArray[np.int64]]:
        """Rows and costs of the flat indices that are of one family."""
        each, before = self.members[place], self._before(place)
        own = chosen[(chosen >= before) & (chosen < self._ends[place])]
        shape = (len(self.rates), *each.bytes.shape)
        rate, batch, member = np.unravel_index(own - before, shape)
        rates, sizes = [self.rates[i] for i in rate], [self.batch_sizes[i] for i in batch]
        costs = np.stack([self._sizes[own], each.train_flops[batch, member]], axis=1)
        return self._rows.of_members(place, member, rates, sizes), costs

    def _around(self, candidate: Candidate) -> Iterator[int]:
        """Flat indices of configurations that differ in one choice, or in how they are run."""
        here = self._index_of(candidate)
        if here is None:
            return
        place, rate, batch, member = self._place(here)
        size, lr = self.batch_sizes[batch], self.rates[rate]
        yield from (self._index(place, other, size, lr) for other in self.members[place].around(member))
        yield from (self._index(place, member, size, other) for other in self.rates)
        yield from (self._index(place, member, other, lr) for other in self.batch_sizes)

    # --- the same, as Optuna's parameters ---------------------------------------------------------------

    @cached_property
    def _encoding(self) -> Encoding:
        beside = (str(c.config.canonical(self.depth).how) for c in self.beside)
        ways: dict[str, Sequence[Any]] = {"batch_size": self.batch_sizes, "lr": self.rates}
        return Encoding(self.members, beside, ways)

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
        place, _, _, member = self._place(index)
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
            found = None if method is None else self._find(method.canonical(self.depth))
            found = found or (self.members.index(each), each.nearest(params))
            candidate = self.at(self._index(*found, size, rate))
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
