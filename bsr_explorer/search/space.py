"""The space of a search with its known costs: what exists, what fits, and how to propose from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

from bsr_explorer.config import Config
from bsr_explorer.cost.grid import Grid, Runs, Schedule, grid, schedule
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, Method, parse_method
from bsr_explorer.models.geometry import Geometry
from bsr_explorer.prediction import counted_bytes, geometry_of, predict
from bsr_explorer.store.study import SpaceSpec, Study
from bsr_explorer.units import format_bytes

MOST_SUBSETS = 2**17
"""Subsets of blocks that a space lays out at most, each with every drop schedule."""


@dataclass(frozen=True)
class Candidate:
    """A configuration with what is known of it before it is trained."""

    config: Config
    key: str
    counted_bytes: int
    train_flops: int


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


class Space:
    """All configurations of a study.

    Args:
        study: its budget and accounting decide what fits.

    Attributes:
        batch_sizes: images a step that may be chosen.
        known: the configurations to try first, at the first of these sizes.
        beside: configurations that the grid does not hold (linear probing, full fine-tuning, …).
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.geometry = geometry_of(study.config)
        self.batch_sizes = list(study.space.batch_sizes) or [study.config.batch_size]
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
            self.candidate(known.config.how, size) for size in self.batch_sizes[1:] for known in self.known
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
        """Counted bytes of the grid, flat."""
        return self.grid.bytes(self.study.counts).ravel()

    @cached_property
    def _fitting(self) -> NDArray[np.intp]:
        """Flat indices of the grid's configurations within the budget."""
        return np.flatnonzero(self._sizes <= self.study.budget_bytes)

    def _in_grid(self, candidate: Candidate) -> Bsr | None:
        """The canonical method of a configuration that the grid holds, or None."""
        method = candidate.config.canonical(self.geometry.depth).how
        if not isinstance(method, Bsr) or not (method.head and method.norm):
            return None
        inside = len(method.blocks) <= self.study.space.max_blocks
        inside = inside and candidate.config.batch_size in self.batch_sizes
        return method if inside and schedule(method.keep, method.fuse) in self._schedules else None

    @cached_property
    def _schedules(self) -> frozenset[Schedule]:
        return frozenset(self.grid.schedules)

    def holds(self, candidate: Candidate) -> bool:
        """Whether a configuration is one of this space."""
        return self._in_grid(candidate) is not None or candidate.key in {c.key for c in self.beside}

    def __len__(self) -> int:
        return len(self.grid) + len(self.beside)

    @property
    def fitting(self) -> int:
        """How many configurations are within the budget."""
        return len(self._fitting) + sum(self.fits(candidate) for candidate in self.beside)

    def fits(self, candidate: Candidate) -> bool:
        """Whether a configuration is within the budget."""
        return candidate.counted_bytes <= self.study.budget_bytes

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

    def candidate(self, method: Method, batch_size: int | None = None) -> Candidate:
        """A method of this space, with its costs; at the first of the batch sizes if none is said."""
        config = self._config(method, batch_size or self.batch_sizes[0])
        size = counted_bytes(config, self.study.counts)
        return Candidate(config, config.key(self.geometry.depth), size, predict(config).train_flops)

    def _config(self, method: Method, batch_size: int) -> Config:
        return replace(self.study.config, method=method, batch_size=batch_size)

    def at(self, index: int) -> Candidate:
        """The grid's configuration at a flat index."""
        batch, drops, mask = np.unravel_index(index, self.grid.saved_bytes.shape)
        (keep, fuse), blocks = self.grid.schedules[int(drops)], self.grid.blocks(int(mask))
        config = self._config(Bsr(blocks, dict(keep), fuse), self.batch_sizes[int(batch)])
        flops = int(self.grid.train_flops.ravel()[index])
        return Candidate(config, config.key(self.geometry.depth), int(self._sizes[index]), flops)

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

    def shuffled(self, generator: np.random.Generator, low: float, high: float) -> Iterator[Candidate]:
        """All configurations that ``sample`` may draw, each once."""
        for index in generator.permutation(self._between(low, high)):
            yield self.at(int(index))

    def _between(self, low: float, high: float) -> NDArray[np.intp]:
        sizes = self._sizes[self._fitting]
        inside: NDArray[np.intp] = self._fitting[(sizes >= low) & (sizes <= high)]
        return inside

    # --- the same, as Optuna's parameters ---------------------------------------------------------------

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """One fixed encoding: the family (the grid's, or a configuration beside it), a bit a block, a keep
        rate a drop location, fused or not."""
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
        return {**params, "fuse": bsr.fuse if bsr.fuse in spec.fuse else spec.fuse[0]}

    def decode(self, params: dict[str, Any]) -> Candidate:
        """The configuration of Optuna's parameters; of more blocks than may train, the topmost do.

        What is known goes by the name that the study gives it.
        """
        if params["method"] == "bsr":
            blocks = [b for b in range(self.geometry.depth) if params[f"block_{b:02d}"]]
            keep = {b: params[f"keep_{b:02d}"] for b in self.study.space.drop_at}
            top = tuple(blocks[max(0, len(blocks) - self.study.space.max_blocks) :])
            method: Method = Bsr(top, keep, params["fuse"]).canonical(self.geometry.depth)
        else:
            method = parse_method(params["method"])
        candidate = self.candidate(method, params.get("batch_size"))
        return next((known for known in self.known if known.key == candidate.key), candidate)


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
