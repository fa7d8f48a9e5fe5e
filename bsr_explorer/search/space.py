"""The space of a search with its known costs: what exists, what fits, and how to propose from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.config import Config
from bsr_explorer.cost.entries import Runs, Schedule, schedule
from bsr_explorer.cost.grid import Grid, grid
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, Method, parse_method
from bsr_explorer.models.base import Geometry
from bsr_explorer.prediction import counted_bytes, geometry_of, predict
from bsr_explorer.search.choices import Candidate as Candidate
from bsr_explorer.search.choices import Pool
from bsr_explorer.search.features import Floats, Profile, Table, profile
from bsr_explorer.store.study import SpaceSpec, Study
from bsr_explorer.train.recipes import recipe
from bsr_explorer.units import format_bytes

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST_SUBSETS = 2**17
"""Subsets of blocks that a space lays out at most, each with every drop schedule."""


def default_space(geometry: Geometry) -> SpaceSpec:
    """Subsets of blocks, all of them for up to 16 blocks; drops at each quarter of the depth; the known
    configurations first."""
    depth = geometry.depth
    stretched = Bsr.stretched(depth)
    paper = [str(stretched)] if geometry.class_token else []
    last = [f"last(k={k})" for k in (1, 3, depth // 2) if 1 <= k < depth]
    start = ["linear", *paper, *last, str(Bsr(stretched.blocks, {})), "checkpoint", "full"]
    return SpaceSpec(
        start=tuple(dict.fromkeys(start)),
        max_blocks=max(most for most in range(depth + 1) if _subsets(depth, most) <= MOST_SUBSETS // 2),
        drop_at=tuple(stretched.keep) if geometry.class_token else (),
    )


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
        batch_sizes: images a step that may be chosen.
        rates: learning rates that may be chosen; None is the recipe's own.
        known: the configurations to try first, at the first of these sizes and rates.
        beside: configurations that the grid does not hold (linear probing, full fine-tuning, …).
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.geometry = geometry_of(study.config)
        self.depth = self.geometry.depth
        self.batch_sizes = list(study.space.batch_sizes) or [study.config.batch_size]
        self.rates: list[float | None] = [*study.space.lr] or [study.config.lr]
        self._check(study.space)
        rates = itertools.product(study.space.keep, repeat=len(study.space.drop_at))
        keeps = [dict(zip(study.space.drop_at, choice, strict=True)) for choice in rates]
        schedules = dict.fromkeys(schedule(keep, fuse) for keep in keeps for fuse in study.space.fuse)
        self.grid: Grid = grid(
            self.geometry,
            _masks(self.geometry.depth, study.space.max_blocks),
            list(schedules),
            self.batch_sizes,
            runs_of(study.config),
        )
        self.known: list[Candidate] = [self.candidate(parse_method(text)) for text in study.space.start]
        others = [
            self.candidate(known.config.how, size, rate)
            for size, rate in itertools.product(self.batch_sizes, self.rates)
            for known in self.known
        ]
        outside = {c.key: c for c in (*self.known, *others) if self._in_grid(c) is None}
        self.beside: list[Candidate] = list(outside.values())

    def _check(self, spec: SpaceSpec) -> None:
        for size in self.batch_sizes:
            replace(self.study.config, batch_size=size)  # which refuses what does not go together
        depth = self.geometry.depth
        beyond = [block for block in spec.drop_at if not 0 <= block < depth]
        if beyond:
            raise UserError(
                f"[space] drop_at: block {beyond[0]} is out of range; use 0 to {depth - 1} (0-based)"
            )
        if spec.drop_at and not self.geometry.class_token and min(spec.keep) < 1:
            raise UserError(
                f"[space] drop_at: {self.study.config.model} has no class token to drop tokens by"
            )
        if not 0 <= spec.max_blocks <= depth:
            raise UserError(
                f"[space] max_blocks: {spec.max_blocks} must be 0 to {depth}, the blocks of the model"
            )
        if _subsets(depth, spec.max_blocks) > MOST_SUBSETS:
            raise UserError(
                f"[space] max_blocks: {depth} blocks have {_subsets(depth, spec.max_blocks):,} subsets of at "
                f"most {spec.max_blocks}, more than the {MOST_SUBSETS:,} that a search lays out; lower it"
            )

    # --- what exists and what fits ----------------------------------------------------------------------

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Counted bytes of the grid, flat, once for each learning rate."""
        return np.tile(self.grid.bytes(self.study.counts).ravel(), len(self.rates))

    @cached_property
    def _fitting(self) -> NDArray[np.intp]:
        """Flat indices of the grid's configurations within the budget."""
        return np.flatnonzero(self._sizes <= self.study.budget_bytes)

    def _in_grid(self, candidate: Candidate) -> Bsr | None:
        """The canonical method of a configuration that the grid holds, or None."""
        method = candidate.config.canonical(self.geometry.depth).how
        if not isinstance(method, Bsr) or not (method.head and method.norm and method.faithful):
            return None
        inside = len(method.blocks) <= self.study.space.max_blocks
        inside = inside and candidate.config.batch_size in self.batch_sizes
        inside = inside and candidate.config.lr in self.rates
        return method if inside and schedule(method.keep, method.fuse) in self._schedules else None

    @cached_property
    def _schedules(self) -> dict[Schedule, int]:
        """The grid's row of each schedule."""
        return {each: row for row, each in enumerate(self.grid.schedules)}

    def holds(self, candidate: Candidate) -> bool:
        """Whether a configuration is one of this space."""
        return self._in_grid(candidate) is not None or candidate.key in {c.key for c in self.beside}

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
        costs = predict(config)
        size = {"peak": costs.peak_bytes, "saved": costs.saved_bytes}.get(self.study.counts)
        counted = counted_bytes(config, self.study.counts) if size is None else size
        return Candidate(config, config.key(self.depth), counted, costs.train_flops)

    def _config(self, method: Method, batch_size: int, rate: float | None) -> Config:
        return replace(self.study.config, method=method, batch_size=batch_size, lr=rate)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of the flat index: learning rates, batch sizes, schedules, masks."""
        return (len(self.rates), *self.grid.saved_bytes.shape)

    def at(self, index: int) -> Candidate:
        """The grid's configuration at a flat index."""
        rate, batch, drops, mask = (int(i) for i in np.unravel_index(index, self._shape))
        (keep, fuse), blocks = self.grid.schedules[drops], self.grid.blocks(mask)
        config = self._config(Bsr(blocks, dict(keep), fuse), self.batch_sizes[batch], self.rates[rate])
        flops = int(self.grid.train_flops[batch, drops, mask])
        return Candidate(config, config.key(self.geometry.depth), int(self._sizes[index]), flops)

    def _index(self, blocks: Sequence[int], drops: Schedule, size: int, rate: float | None) -> int:
        """The flat index of a configuration of the grid."""
        mask = np.isin(np.arange(self.depth), blocks)
        place = self.rates.index(rate), self.batch_sizes.index(size), self._schedules[drops]
        return int(np.ravel_multi_index((*place, self._mask_rows[mask.tobytes()]), self._shape))

    @property
    def smallest(self) -> Candidate:
        """The configuration of the grid with the least memory."""
        return self.at(int(self._sizes.argmin()))

    def sample(self, generator: np.random.Generator, low: float, high: float) -> Candidate | None:
        """A random configuration within the budget whose memory is in [low, high] bytes, or None.

        The number of trained blocks is drawn first, or large subsets, being many, would be all one sees.
        """
        inside = self._between(low, high)
        if not len(inside):
            return None
        blocks = self.grid.masks[inside % len(self.grid.masks)].sum(axis=1)
        chosen = generator.choice(np.unique(blocks))
        return self.at(int(generator.choice(inside[blocks == chosen])))

    def each(self, generator: np.random.Generator) -> Iterator[Candidate]:
        """Every configuration within the budget, in random order, those beside the grid last."""
        for index in generator.permutation(self._fitting):
            yield self.at(int(index))
        yield from filter(self.fits, self.beside)

    def _between(self, low: float, high: float) -> NDArray[np.intp]:
        sizes = self._sizes[self._fitting]
        inside: NDArray[np.intp] = self._fitting[(sizes >= low) & (sizes <= high)]
        return inside

    # --- the same, as a surrogate sees it ----------------------------------------------------------------

    @cached_property
    def _table(self) -> Table:
        return Table(self.depth, [self._profile(c).stored for c in (*self.known, *self.beside)])

    def _profile(self, candidate: Candidate) -> Profile:
        fidelity = self.study.fidelity
        return profile(fidelity.at(candidate.config), recipe(fidelity.recipe, self.study.data).lr)

    def rows(self, candidates: Sequence[Candidate]) -> Floats:
        """(n, width) of ``features.Table``."""
        return self._table.rows([self._profile(candidate) for candidate in candidates])

    @cached_property
    def _by_schedule(self) -> Floats:
        """(learning rates, batch sizes, schedules, width) of configurations in which no block trains."""
        first = self.rows(
            [
                replace(self.smallest, config=self._config(Bsr((), dict(keep), fuse), size, rate))
                for rate in self.rates
                for size in self.batch_sizes
                for keep, fuse in self.grid.schedules
            ]
        )
        return first.reshape(*self._shape[:3], -1)

    def pool(self, generator: np.random.Generator, most: int, near: Sequence[Candidate]) -> Pool:
        """Up to so many configurations of the grid within the budget, as many of each number of trained blocks;
        the neighbours of some configurations; and what lies beside the grid."""
        chosen = self._fitting
        if len(chosen) > most:
            blocks = self.grid.masks.sum(axis=1)[chosen % len(self.grid.masks)]
            rarity = 1 / np.bincount(blocks)[blocks]
            chosen = generator.choice(chosen, most, replace=False, p=rarity / rarity.sum())
        around = [index for candidate in near for index in self._around(candidate)]
        around = [index for index in around if self._sizes[index] <= self.study.budget_bytes]
        chosen = np.unique(np.concatenate([chosen, np.array(around, dtype=chosen.dtype)]))
        rate, batch, drops, mask = np.unravel_index(chosen, self._shape)
        rows = self._by_schedule[rate, batch, drops].copy()
        rows[:, : self.depth] = self.grid.masks[mask]
        beside = [candidate for candidate in self.beside if self.fits(candidate)]
        costs = np.stack([self._sizes[chosen], self.grid.train_flops[batch, drops, mask]], axis=1)
        more = np.array([(c.counted_bytes, c.train_flops) for c in beside], dtype=costs.dtype).reshape(-1, 2)

        def at(row: int) -> Candidate:
            return self.at(int(chosen[row])) if row < len(chosen) else beside[row - len(chosen)]

        costs = np.concatenate([costs, more])
        return Pool(np.concatenate([rows, self.rows(beside)]), costs, int(self.grid.train_flops.max()), at)

    def _around(self, candidate: Candidate) -> Iterator[int]:
        """Flat indices of configurations that differ in one block (trained, not, or its neighbour instead), in one
        keep rate, or in how they are run."""
        method = self._in_grid(candidate)
        if method is None:
            return
        config, drops = candidate.config, schedule(method.keep, method.fuse)
        here = self._index(method.blocks, drops, config.batch_size, config.lr)
        rate, size, drop, row = (int(i) for i in np.unravel_index(here, self._shape))
        mask = np.zeros(self.depth, dtype=bool)
        mask[list(method.blocks)] = True
        masks = [mask ^ (np.arange(self.depth) == block) for block in range(self.depth)]
        for block in method.blocks:
            for other in (block - 1, block + 1):
                if 0 <= other < self.depth and not mask[other]:
                    masks.append(mask ^ np.isin(np.arange(self.depth), (block, other)))
        rows = [self._mask_rows[m.tobytes()] for m in masks if m.tobytes() in self._mask_rows]
        places = [(rate, size, drop, other) for other in rows]
        rates = {**dict.fromkeys(self.study.space.drop_at, 1.0), **method.keep}
        for block in self.study.space.drop_at:
            for keep in self.study.space.keep:
                other_drop = self._schedules.get(schedule({**rates, block: keep}, method.fuse))
                places += [(rate, size, other_drop, row)] if other_drop is not None else []
        places += [(other, size, drop, row) for other in range(len(self.rates))]
        places += [(rate, other, drop, row) for other in range(len(self.batch_sizes))]
        for place in places:
            yield int(np.ravel_multi_index(place, self._shape))

    @cached_property
    def _mask_rows(self) -> dict[bytes, int]:
        return {mask.tobytes(): row for row, mask in enumerate(self.grid.masks)}

    # --- the same, as Optuna's parameters ---------------------------------------------------------------

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """One fixed encoding: the family (the grid's, or a configuration beside it), a bit a block, a keep
        rate a drop location, fused or not."""
        from optuna.distributions import (
            CategoricalDistribution,  # what does not fit is refused without Optuna
        )

        spec = self.study.space
        beside = (str(c.config.canonical(self.geometry.depth).how) for c in self.beside)
        families = list(dict.fromkeys(["bsr", *beside]))
        space: dict[str, BaseDistribution] = {"method": CategoricalDistribution(families)}
        for block in range(self.geometry.depth):
            space[f"block_{block:02d}"] = CategoricalDistribution([False, True])
        for block in spec.drop_at:
            space[f"keep_{block:02d}"] = CategoricalDistribution(sorted(spec.keep))
        space["fuse"] = CategoricalDistribution(sorted(spec.fuse))
        if len(self.batch_sizes) > 1:
            space["batch_size"] = CategoricalDistribution(sorted(self.batch_sizes))
        if len(self.rates) > 1:
            space["lr"] = CategoricalDistribution(sorted(spec.lr))
        return space

    def encode(self, candidate: Candidate) -> dict[str, Any]:
        """Optuna's parameters of a configuration of this space."""
        spec, bsr = self.study.space, self._in_grid(candidate)
        family = "bsr" if bsr else str(candidate.config.canonical(self.geometry.depth).how)
        bsr = bsr or Bsr((), {})
        params: dict[str, Any] = {"method": family}
        for block in range(self.geometry.depth):
            params[f"block_{block:02d}"] = block in bsr.blocks
        for block in spec.drop_at:
            rate = bsr.keep.get(block, 1.0)
            params[f"keep_{block:02d}"] = rate if rate in spec.keep else max(spec.keep)
        if len(self.batch_sizes) > 1:
            params["batch_size"] = candidate.config.batch_size
        if len(self.rates) > 1:
            params["lr"] = candidate.config.lr
        return {**params, "fuse": bsr.fuse if bsr.fuse in spec.fuse else spec.fuse[0]}

    def decode(self, params: dict[str, Any]) -> Candidate:
        """The configuration of Optuna's parameters; of more blocks than may train, the topmost do.

        What is known goes by the name that the study gives it.
        """
        size = params.get("batch_size", self.batch_sizes[0])
        rate = params.get("lr", self.rates[0])
        if params["method"] == "bsr":
            blocks = [b for b in range(self.depth) if params[f"block_{b:02d}"]]
            keep = {b: params[f"keep_{b:02d}"] for b in self.study.space.drop_at}
            top = blocks[max(0, len(blocks) - self.study.space.max_blocks) :]
            candidate = self.at(self._index(top, schedule(keep, params["fuse"]), size, rate))
        else:
            candidate = self._beside[params["method"], size, rate]
        return self._named.get(candidate.key, candidate)

    def asked(self, params: dict[str, Any], done: Collection[str]) -> Candidate:
        """The configuration of parameters that a sampler asks for."""
        return self.decode(params)

    @cached_property
    def _beside(self) -> dict[tuple[str, int, float | None], Candidate]:
        """What lies beside the grid, by its canonical method and how it is run."""
        return {
            (str(c.config.canonical(self.depth).how), c.config.batch_size, c.config.lr): c
            for c in self.beside
        }

    @cached_property
    def _named(self) -> dict[str, Candidate]:
        """The known configurations by key, by the names that the study gives them."""
        return {known.key: known for known in self.known}


def runs_of(config: Config) -> Runs:
    """How the configurations of a grid are run, as one of them says."""
    return Runs(config.attention, config.precision, config.setup)


def _subsets(depth: int, most: int) -> int:
    """How many subsets of at most ``most`` of ``depth`` blocks there are."""
    return sum(math.comb(depth, size) for size in range(most + 1))


def _masks(depth: int, most: int) -> NDArray[np.bool_]:
    """Every subset of at most ``most`` of ``depth`` blocks, (subsets, depth), smallest first."""
    subsets = [s for size in range(most + 1) for s in itertools.combinations(range(depth), size)]
    masks = np.zeros((len(subsets), depth), dtype=bool)
    for row, subset in enumerate(subsets):
        masks[row, list(subset)] = True
    return masks
