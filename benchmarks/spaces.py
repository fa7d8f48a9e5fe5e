"""Spaces of known outcomes, for samplers to choose among: a table of real accuracies, and a synthetic one."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from bsr_explorer import pareto
from bsr_explorer.config import Config
from bsr_explorer.cost.entries import schedule
from bsr_explorer.cost.grid import all_masks, grid
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, parse_method
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.composed import Composed
from bsr_explorer.prediction import geometry_of, predict
from bsr_explorer.search.choices import NO_PROXIES, Candidate, Pool
from bsr_explorer.search.features import Floats, Table, profile
from bsr_explorer.units import format_bytes


@dataclass(frozen=True)
class Outcome:
    """One training: accuracies after each epoch, the last one final, and images trained by then."""

    history: dict[int, float]
    images: dict[int, int]


class Listed:
    """Rows of known outcomes as something to choose among: see ``search.choices.Choices``.

    Attributes:
        sizes, flops: (n,) of each row.
        features: (n, width).
        truth: (n,) accuracies that count.
        params: of each row, for Optuna.
    """

    known: list[Candidate] = []  # noqa: RUF012  # nothing is tried first: samplers are compared from their start
    prior: Any = None
    efforts = NO_PROXIES

    def __init__(
        self, budget: int, sizes: Any, flops: Any, features: Floats, truth: Floats, depth: int = 12
    ) -> None:
        self.budget_bytes, self.sizes, self.flops, self.features = budget, sizes, flops, features
        self.truth, self.depth = truth, depth
        self.fitting = np.flatnonzero(sizes <= budget)
        if not len(self.fitting):
            raise UserError(
                f"--budget: {format_bytes(budget)} is less than {format_bytes(int(sizes.min()))}, the least"
            )

    @property
    def range_bytes(self) -> tuple[int, int]:
        return int(self.sizes.min()), int(self.sizes.max())

    def config(self, row: int) -> Config:
        raise NotImplementedError

    def candidate(self, row: int) -> Candidate:
        return Candidate(self.config(row), str(row), int(self.sizes[row]), int(self.flops[row]))

    def fits(self, candidate: Candidate) -> bool:
        return candidate.counted_bytes <= self.budget_bytes

    def asked(self, params: dict[str, Any], done: Collection[str]) -> Candidate:
        """The row of these parameters, or the nearest that may be trained: by how many parameters differ."""
        code = np.array(self.code(params))
        apart = (self.codes[self.fitting] != code).sum(axis=1)
        apart[np.isin(self.fitting, [int(key) for key in done])] += 10_000
        return self.candidate(int(self.fitting[apart.argmin()]))

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        """What each of Optuna's parameters may be."""
        return {name: list(d.choices) for name, d in self.distributions.items()}

    def code(self, params: dict[str, Any]) -> list[int]:
        """Parameters as numbers."""
        return [values.index(params[name]) for name, values in self.values.items()]

    @property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        raise NotImplementedError

    @property
    def codes(self) -> Any:
        """(n, parameters) of each row."""
        raise NotImplementedError

    def rows(self, candidates: Sequence[Candidate]) -> Floats:
        return self.features[[int(c.key) for c in candidates]]

    def pool(self, generator: np.random.Generator, most: int, near: Sequence[Candidate]) -> Pool:
        chosen = self.fitting
        if len(chosen) > most:
            chosen = np.unique(
                np.concatenate([generator.choice(chosen, most, replace=False), self.around(near)])
            )
            chosen = chosen[self.sizes[chosen] <= self.budget_bytes]
        costs = np.stack([self.sizes[chosen], self.flops[chosen]], axis=1)
        return Pool(
            self.features[chosen], costs, int(self.flops.max()), lambda row: self.candidate(int(chosen[row]))
        )

    def around(self, near: Sequence[Candidate]) -> Any:
        return np.zeros(0, int)

    def sample(self, generator: np.random.Generator, low: float, high: float) -> Candidate | None:
        sizes = self.sizes[self.fitting]
        inside = self.fitting[(sizes >= low) & (sizes <= high)]
        return self.candidate(int(generator.choice(inside))) if len(inside) else None

    def each(self, generator: np.random.Generator) -> Iterator[Candidate]:
        for row in generator.permutation(self.fitting):
            yield self.candidate(int(row))

    def train(self, row: int, generator: np.random.Generator) -> Outcome:
        raise NotImplementedError

    @cached_property
    def whole(self) -> float:
        """Hypervolume of everything within the budget."""
        return self.volume(self.fitting)

    def volume(self, rows: Any) -> float:
        return pareto.hypervolume(self.sizes[rows].tolist(), self.truth[rows].tolist(), self.budget_bytes)


KEEP = (1.0, 0.7, 0.5)
DROPS = (3, 6, 9)
STORES = ("", "mesa", "backrazor", "checkpoint")
LEFT = (1.0, 0.45, 0.5, 0.3)
"""Share of the saved activations that each way to store leaves."""

EPOCH_IMAGES = 448
"""Of the synthetic space: images that an epoch counts for; a training has three."""


class Synthetic(Listed):
    """Costs of deit_s, batch 32; accuracies of a formula with coefficients that follow from a seed."""

    def __init__(self, share: float, seed: int) -> None:
        depth, masks = 12, all_masks(12)
        keeps = list(itertools.product(KEEP, repeat=len(DROPS)))
        schedules = [schedule(dict(zip(DROPS, keep, strict=True)), True) for keep in keeps]
        costs = grid(geometry_of(Config("deit_s")), masks, schedules, [32])
        peak, saved = costs.peak_bytes[0], costs.saved_bytes[0]
        sizes = np.concatenate([(peak - (1 - left) * saved).ravel() for left in LEFT]).astype(np.int64)
        flops = np.tile(costs.train_flops[0].ravel(), len(LEFT))
        self.shape = (len(LEFT), len(keeps), len(masks))
        how, drop, mask = np.unravel_index(np.arange(len(sizes)), self.shape)
        trained, kept = masks[mask].astype(float), np.array(keeps)[drop]
        logs = np.zeros((len(keeps), depth))
        for row, keep in enumerate(keeps):
            for block, rate in zip(DROPS, keep, strict=True):
                logs[row, block:] += math.log2(rate)
        rest = np.zeros((len(sizes), 4))
        rest[:, 0] = (kept < 1).any(axis=1)
        rest[:, 3] = 5
        stored = np.stack([(how == 0) | (how == 3), how == 1, how == 2], axis=1)
        features = np.concatenate([trained, logs[drop], rest, stored], axis=1)
        truth = self._accuracy(np.random.default_rng(seed), trained, kept, how)
        super().__init__(int(np.quantile(sizes, share)), sizes, flops, features, truth)

    @staticmethod
    def _accuracy(generator: np.random.Generator, trained: Floats, kept: Floats, how: Any) -> Floats:
        depth = trained.shape[1]
        worth = np.exp(generator.normal(0, 0.4, depth))
        worth *= 0.4 + np.arange(depth) / depth * generator.uniform(0.5, 2)
        worth /= worth.sum()
        alike = np.minimum(worth[1:], worth[:-1]) * generator.uniform(0.2, 0.6)
        useful = trained @ worth - (trained[:, 1:] * trained[:, :-1]) @ alike
        lost = ((1 - kept) * 2) ** 1.5 @ generator.uniform(0.005, 0.03, len(DROPS)) * (1 + 0.5 * useful)
        lost += np.array([0, 0.004, 0.03, 0])[how] * (0.5 + useful)
        gained = generator.uniform(0.25, 0.33) * (1 - np.exp(-4 * useful))
        return generator.uniform(0.5, 0.65) + gained - lost

    @cached_property
    def codes(self) -> Any:
        how, drop, mask = np.unravel_index(np.arange(len(self.sizes)), self.shape)
        kept = np.unravel_index(drop, (len(KEEP),) * len(DROPS))
        columns = [*((mask >> block & 1) for block in range(self.depth)), *kept, how]
        return np.stack(columns, axis=1).astype(np.int8)

    @cached_property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        space: dict[str, CategoricalDistribution] = {
            f"block_{block:02d}": CategoricalDistribution([False, True]) for block in range(self.depth)
        }
        space |= {f"keep_{block:02d}": CategoricalDistribution(KEEP) for block in DROPS}
        return {**space, "stored": CategoricalDistribution(STORES)}

    def encode(self, candidate: Candidate) -> dict[str, Any]:
        how, drop, mask = (int(i) for i in np.unravel_index(int(candidate.key), self.shape))
        keeps = list(itertools.product(KEEP, repeat=len(DROPS)))[drop]
        params: dict[str, Any] = {f"block_{b:02d}": bool(mask >> b & 1) for b in range(self.depth)}
        params |= {f"keep_{b:02d}": rate for b, rate in zip(DROPS, keeps, strict=True)}
        return {**params, "stored": STORES[how]}

    def decode(self, params: dict[str, Any]) -> Candidate:
        mask = sum(params[f"block_{b:02d}"] << b for b in range(self.depth))
        drop = int(
            np.ravel_multi_index([KEEP.index(params[f"keep_{b:02d}"]) for b in DROPS], (len(KEEP),) * 3)
        )
        return self.candidate(
            int(np.ravel_multi_index((STORES.index(params["stored"]), drop, mask), self.shape))
        )

    def config(self, row: int) -> Config:
        how, drop, mask = (int(i) for i in np.unravel_index(row, self.shape))
        keeps = list(itertools.product(KEEP, repeat=len(DROPS)))[drop]
        blocks = tuple(b for b in range(self.depth) if mask >> b & 1)
        method: Method = Bsr(blocks, dict(zip(DROPS, keeps, strict=True)))
        return Config("deit_s", method=method + parse_method(STORES[how]) if how else method)

    def around(self, near: Sequence[Candidate]) -> Any:
        found = []
        for candidate in near:
            how, drop, mask = (int(i) for i in np.unravel_index(int(candidate.key), self.shape))
            found += [(how, drop, mask ^ (1 << block)) for block in range(self.depth)]
            for block in range(self.depth - 1):
                if (mask >> block & 1) != (mask >> (block + 1) & 1):
                    found.append((how, drop, mask ^ (3 << block)))
            found += [(how, other, mask) for other in range(self.shape[1])]
            found += [(other, drop, mask) for other in range(self.shape[0])]
        return np.ravel_multi_index(np.array(found).T, self.shape) if found else np.zeros(0, int)

    def train(self, row: int, generator: np.random.Generator) -> Outcome:
        final = self.truth[row] + generator.normal(0, 0.006)
        early = 0.6 * self.truth[row] + 0.1 + generator.normal(0, 0.015)
        return Outcome({1: float(early), 3: float(min(1.0, final))}, {1: EPOCH_IMAGES, 3: 3 * EPOCH_IMAGES})


class Tabled(Listed):
    """Real accuracies, at the costs of a model."""

    def __init__(
        self,
        outcomes: dict[str, list[Outcome]],
        config: Config,
        budget: int | float,
        hints: Path | None = None,
    ) -> None:
        """
        Args:
            outcomes: of each method, one a replica: see ``read_table``.
            budget: bytes, or the share of the rows that fit.
            hints: a file of what is known before any training, if there is one.
        """
        self.hints = json.loads(hints.read_text()) if hints is not None and hints.exists() else {}
        self.base = config
        self.methods = [parse_method(text) for text in outcomes]
        self.outcomes = list(outcomes.values())
        depth = geometry_of(config).depth
        costs = [predict(config.with_method(method)) for method in self.methods]
        sizes = np.array([cost.peak_bytes for cost in costs])
        flops = np.array([cost.train_flops for cost in costs])
        profiles = [profile(config.with_method(method), 1.0) for method in self.methods]
        table = Table(depth, profiles)
        truth = np.array([np.mean([o.history[max(o.history)] for o in each]) for each in self.outcomes])
        bytes_ = int(np.quantile(sizes, budget)) if isinstance(budget, float) else budget
        super().__init__(bytes_, sizes, flops, table.rows(profiles), truth, depth)
        self.all_params = [_params(method, depth) for method in self.methods]
        self._places = {tuple(sorted(params.items())): row for row, params in enumerate(self.all_params)}

    @cached_property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        return {
            name: CategoricalDistribution(sorted({params[name] for params in self.all_params}))
            for name in self.all_params[0]
        }

    @cached_property
    def codes(self) -> Any:
        return np.array([self.code(params) for params in self.all_params])

    def encode(self, candidate: Candidate) -> dict[str, Any]:
        return self.all_params[int(candidate.key)]

    def decode(self, params: dict[str, Any]) -> Candidate:
        return self.candidate(self._places[tuple(sorted(params.items()))])

    def config(self, row: int) -> Config:
        return self.base.with_method(self.methods[row])

    def train(self, row: int, generator: np.random.Generator) -> Outcome:
        replicas = self.outcomes[row]
        return replicas[int(generator.integers(len(replicas)))]


def read_table(path: Path) -> dict[str, list[Outcome]]:
    """The outcomes of each method of a table, one a replica.

    Raises:
        UserError: not there, or without its columns.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"--table: {path} cannot be read ({error.strerror})") from None
    missing = [
        key for key in ("method", "replica", "accuracy", "images_trained") if not rows or key not in rows[0]
    ]
    if missing:
        raise UserError(f"--table: {path} has no column {missing[0]!r}, or no rows")
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    for row in rows:
        after = [float(value) for value in (row.get("history") or "").split()] or [float(row["accuracy"])]
        after[-1] = float(row["accuracy"])
        images = int(float(row["images_trained"]))
        epochs = range(1, len(after) + 1)
        shares = {epoch: images * epoch // len(after) for epoch in epochs}
        outcomes[row["method"]].append(Outcome(dict(zip(epochs, after, strict=True)), shares))
    return dict(outcomes)


def _params(method: Method, depth: int) -> dict[str, Any]:
    """Optuna's parameters of any method: a bit a block, a keep rate a block, fused, and the rest as it is written."""
    method = method.canonical(depth)
    parts = method.parts if isinstance(method, Composed) else (method,)
    bsr = next((part for part in parts if isinstance(part, Bsr)), Bsr((), {}, False))
    rest = "+".join(str(part) for part in parts if not isinstance(part, Bsr))
    params: dict[str, Any] = {f"block_{b:02d}": b in bsr.blocks for b in range(depth)}
    params |= {f"keep_{b:02d}": bsr.dropping.get(b, 1.0) for b in range(depth)}
    return {
        **params,
        "fuse": bsr.fuse,
        "rest": rest + ("" if bsr.head and bsr.norm else "head or norm alone"),
    }
