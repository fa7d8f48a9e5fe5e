"""How many trainings does a sampler need to find the front, when costs are known?

    python benchmarks/samplers.py [--out reports/samplers]
    python benchmarks/samplers.py --table FILE --model deit_s --image-size 64 --batch-size 32 --budget 300MB --json

Every sampler of ``bsr-explore search --sampler`` proposes by the very code that a search runs, behind the same filter:
what is over the budget, or was trained before, is never trained. Outcomes come from a table of real accuracies (method,
replica, accuracy, images_trained, seconds, and optionally history: accuracies after each epoch), or from a synthetic
space: 12 block bits × a keep rate of 1, 0.7 or 0.5 at blocks 3, 6 and 9 × 4 ways to store, with accuracies drawn
anew for each seed: saturating in what trains, redundant between neighbours, less where tokens are dropped, and noisy.

Counted is the hypervolume of what was trained (true accuracies: means over replicas, or without noise) as a share of
that of all configurations within the budget. What a sampler proposes that is over the budget, trained before or no row
of the table is moved to the nearest that may be trained. Two strategies stop trials early: ``exact+rungs`` (``search
--rungs``) and ``brief`` (a random sample all trained to the first rung, then the best of them to the end).
Two begin with an earlier study (``search --prior``) of random configurations, whose images count, too: ``exact+prior``
with 24 that were trained to the end, ``exact+brief-prior`` with 12 that were trained to the first rung.

Without --table and --budget both spaces run, at a loose budget (all fits, or nearly) and at a tight one.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import optuna
import torch
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable

from bsr_explorer import pareto
from bsr_explorer.config import Config
from bsr_explorer.cost.entries import schedule
from bsr_explorer.cost.grid import all_masks, grid
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, parse_method
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.composed import Composed
from bsr_explorer.prediction import geometry_of, predict
from bsr_explorer.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, figure, save
from bsr_explorer.search.choices import Candidate, Pool
from bsr_explorer.search.features import Floats, Table, profile
from bsr_explorer.search.proposals import SAMPLERS, derived_seed, propose
from bsr_explorer.search.rungs import Seen, bars
from bsr_explorer.search.surrogate import Surrogate
from bsr_explorer.store.records import write_text
from bsr_explorer.units import format_bytes, parse_bytes

STRATEGIES = (*SAMPLERS, "exact+rungs", "exact+prior", "exact+brief-prior", "brief")
TRAININGS = 60
EARLIER = {"exact+prior": (24, False), "exact+brief-prior": (12, True)}
"""Configurations of the earlier study that a strategy begins with, and whether they stopped at the first rung."""

SLOW, SLOW_TRAININGS = ("exact", "exact+rungs", *EARLIER, "gp"), 40
LOOSE, TIGHT = 0.98, 0.3
"""Shares of the configurations that a budget lets in."""

OURS = ("exact", "exact+rungs", *EARLIER)
TABLE = Path(__file__).parents[1] / "studies" / "accuracy_table" / "table.csv"
RUNG_IMAGES = 400
"""Validation images of the synthetic space."""


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
    """Real accuracies: a CSV, at the costs of a model."""

    def __init__(self, path: Path, config: Config, budget: int | float) -> None:
        """``budget``: bytes, or the share of the rows that fit."""
        self.base = config
        outcomes = read_table(path)
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


@dataclass
class Run:
    """One search: hypervolume (share of the whole) and images trained after each training."""

    volume: list[float]
    images: list[int]


def search(choices: Listed, strategy: str, seed: int, trainings: int) -> Run:
    """Let a strategy choose what is trained."""
    if strategy == "brief":
        return _brief(choices, seed, trainings)
    sampler, generator = (
        strategy.partition("+")[0],
        np.random.default_rng(derived_seed(seed, "outcomes")),
    )
    seen: list[Any] = []
    done: set[str] = set()
    finished: list[int] = []
    known: list[Seen] = []
    run = Run([], [])
    choices.prior = Earlier(choices, seed, *EARLIER[strategy]) if strategy in EARLIER else None
    images = choices.prior.images if choices.prior is not None else 0
    rungs = _rungs(choices) if strategy.endswith("+rungs") else ()
    while len(run.volume) < trainings:
        proposal = propose(
            choices, sampler, seen, [], done, derived_seed(seed, strategy, len(seen)), study_seed=seed
        )
        if proposal is None:
            break
        row = int(proposal.candidate.key)
        outcome = choices.train(row, generator)
        last = max(outcome.history)
        asked = bars(rungs, int(choices.sizes[row]), known, RUNG_IMAGES)
        at = next((rung for rung in rungs if outcome.history[rung] < asked[rung]), last)
        history = {epoch: value for epoch, value in outcome.history.items() if epoch <= at}
        done.add(proposal.candidate.key)
        known.append(Seen(int(choices.sizes[row]), history))
        seen.append(
            create_trial(
                state=TrialState.COMPLETE if at == last else TrialState.PRUNED,
                params=choices.encode(proposal.candidate),
                distributions=dict(choices.distributions),
                values=[history[at], float(choices.sizes[row])] if at == last else None,
                system_attrs=proposal.system_attrs,
                user_attrs={
                    "history": {str(epoch): value for epoch, value in history.items()},
                    "counted_bytes": int(choices.sizes[row]),
                },
            )
        )
        images += outcome.images[at]
        finished += [row] if at == last else []
        run.volume.append(choices.volume(finished) / choices.whole)
        run.images.append(images)
    return run


class Earlier:
    """An earlier study, of so many random configurations: see ``search.prior.Prior``."""

    def __init__(self, choices: Listed, seed: int, count: int, brief: bool) -> None:
        generator = np.random.default_rng(derived_seed(seed, "earlier"))
        count = min(count, len(choices.fitting))
        rows = generator.choice(choices.fitting, count, replace=False)
        outcomes = [choices.train(int(row), generator) for row in rows]
        rung = _rungs(choices)[0] if brief and _rungs(choices) else max(outcomes[0].history)
        self.images = sum(outcome.images[rung] for outcome in outcomes)
        accuracy = np.array([outcome.history[rung] for outcome in outcomes])
        self._fitted = Surrogate.fit(choices.features[rows], accuracy, np.zeros(count), choices.depth)

    def fitted(self, choices: Listed) -> Surrogate:
        return self._fitted


def _rungs(choices: Listed) -> tuple[int, ...]:
    """The first epoch, where the outcomes have more than one."""
    epochs = sorted(choices.train(0, np.random.default_rng(0)).history)
    return tuple(epochs[:1]) if len(epochs) > 1 else ()


def _brief(choices: Listed, seed: int, trainings: int) -> Run:
    """Train a random sample briefly, then continue those on the front of what they reached, best gain first."""
    generator = np.random.default_rng(derived_seed(seed, "outcomes"))
    order = np.random.default_rng(seed).permutation(choices.fitting)[:trainings]
    outcomes = {int(row): choices.train(int(row), generator) for row in order}
    (rung,) = _rungs(choices) or (max(next(iter(outcomes.values())).history),)
    images = sum(outcome.images[rung] for outcome in outcomes.values())
    run, finished = Run([], []), []
    left = set(outcomes)
    while left and len(run.volume) < trainings:
        front = _front(choices, {row: outcomes[row].history[rung] for row in left})
        for row in front:
            finished.append(row)
            left.discard(row)
            last = max(outcomes[row].history)
            images += outcomes[row].images[last] - outcomes[row].images[rung]
            run.volume.append(choices.volume(finished) / choices.whole)
            run.images.append(images)
    return run


def _front(choices: Listed, reached: dict[int, float]) -> list[int]:
    rows = list(reached)
    return [rows[place] for place in pareto.front(choices.sizes[rows], [-reached[row] for row in rows])]


_SPACES: dict[tuple[str, int | float, int], Listed] = {}


def _space(name: str, budget: int | float, seed: int, table: Path, config: Config) -> Listed:
    key = (name, budget, seed if name == "synthetic" else 0)
    if key not in _SPACES:
        if name == "synthetic":
            _SPACES.clear()  # half a million rows each
            _SPACES[key] = Synthetic(float(budget), seed)
        else:
            _SPACES[key] = Tabled(table, config, budget)
    return _SPACES[key]


@dataclass(frozen=True)
class Piece:
    """One search of one strategy."""

    space: str
    budget: int | float
    strategy: str
    seed: int
    trainings: int
    table: Path
    config: Config

    def __call__(self) -> Run:
        torch.set_num_threads(1)
        warnings.filterwarnings("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        choices = _space(self.space, self.budget, self.seed, self.table, self.config)
        return search(choices, self.strategy, self.seed, self.trainings)


def _call(piece: Piece) -> tuple[Piece, Run]:
    return piece, piece()


def summary(runs: Sequence[Run], trainings: int) -> dict[str, list[float]]:
    """Mean and standard deviation over seeds after each training (a run that ended early stays where it was)."""
    volume = np.array([_padded(run.volume, trainings) for run in runs])
    images = np.array([_padded(run.images, trainings) for run in runs])
    return {
        "mean": volume.mean(axis=0).round(5).tolist(),
        "std": volume.std(axis=0, ddof=1 if len(runs) > 1 else 0).round(5).tolist(),
        "images": images.mean(axis=0).round(1).tolist(),
    }


def _padded(values: Sequence[float], length: int) -> list[float]:
    return [*values, *[values[-1]] * (length - len(values))] if values else [0.0] * length


def main() -> None:
    """Run, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, help="CSV of real accuracies; both spaces if left out")
    parser.add_argument("--model", default="deit_s", help="whose costs the rows of the table have")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--budget", help="memory with its unit; a loose and a tight one if left out")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trainings", type=int, default=TRAININGS)
    parser.add_argument(
        "--most",
        type=int,
        default=SLOW_TRAININGS,
        help="the most trainings of those that take a second or so a proposal: " + ", ".join(SLOW),
    )
    parser.add_argument("--spaces", default="table,synthetic", help="of table, synthetic")
    parser.add_argument("--samplers", default=",".join(STRATEGIES), help="of " + ", ".join(STRATEGIES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="folder for the figures of the curves and what is printed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        answer = _run(options)
    except UserError as error:
        sys.exit(f"error: {error}")
    text = json.dumps(answer)
    if options.out:
        write_text(options.out / "samplers.json", text + "\n")
        _draw(answer, options.out)
    if options.json:
        one = len(answer) == 1 and options.budget is not None
        print(json.dumps(next(iter(answer.values()))) if one else text)
        return
    console = Console(width=150)
    for name, curves in answer.items():
        console.print(_table(name, curves))


def _run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    strategies = [name.strip() for name in options.samplers.split(",")]
    for name in strategies:
        if name not in STRATEGIES:
            raise UserError(f"--samplers: {name!r} is none; choose of {', '.join(STRATEGIES)}")
    config = Config(options.model, options.image_size, batch_size=options.batch_size)
    budgets: dict[str, int | float] = (
        {options.budget: parse_bytes(options.budget)} if options.budget else {"loose": LOOSE, "tight": TIGHT}
    )
    spaces = ["table"] if options.table or options.budget else options.spaces.split(",")

    def trainings(strategy: str) -> int:
        return min(options.trainings, options.most) if strategy in SLOW else options.trainings

    table = options.table or TABLE
    pieces = [
        Piece(space, budget, strategy, seed, trainings(strategy), table, config)
        for space in spaces
        for budget in budgets.values()
        for seed in range(options.seeds)
        for strategy in strategies
    ]
    for space in spaces:  # whatever is wrong is found before work starts
        if space == "table":
            for budget in budgets.values():
                _space(space, budget, 0, table, config)
    runs: dict[tuple[str, int | float, str], list[Run]] = defaultdict(list)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("searching", total=len(pieces))
        with multiprocessing.get_context("fork").Pool(options.jobs) as workers:
            for piece, run in workers.imap(_call, pieces):
                runs[piece.space, piece.budget, piece.strategy].append(run)
                progress.advance(bar)
    return {
        f"{space}, {word}": {
            strategy: summary(runs[space, budget, strategy], trainings(strategy)) for strategy in strategies
        }
        for space in spaces
        for word, budget in budgets.items()
    }


def _table(name: str, curves: dict[str, dict[str, list[float]]]) -> RichTable:
    """Hypervolume after some trainings, and how many it takes to reach what others have at the end."""
    longest = max(len(curve["mean"]) for curve in curves.values())
    shown = [n for n in (10, 20, 40, 60) if n <= longest]
    table = RichTable(title=name)
    table.add_column("sampler")
    for n in shown:
        table.add_column(f"after {n}", justify="right")
    table.add_column("trainings to 97%", justify="right")
    others = [other for other in ("tpe", "nsga2", "gp") if other in curves]
    for other in others:
        table.add_column(f"to {other}'s end", justify="right")
    table.add_column("images", justify="right")
    for strategy, curve in curves.items():
        cells = [
            f"{curve['mean'][n - 1]:.3f} ± {curve['std'][n - 1]:.3f}" if n <= len(curve["mean"]) else "–"
            for n in shown
        ]
        cells.append(_reached(curve["mean"], 0.97))
        cells += [_reached(curve["mean"], curves[other]["mean"][-1]) for other in others]
        table.add_row(strategy, *cells, f"{curve['images'][-1]:,.0f}")
    return table


def _reached(curve: Sequence[float], level: float) -> str:
    return next((str(n + 1) for n, value in enumerate(curve) if value >= level), f"over {len(curve)}")


LOOKS = {
    "exact": (BLUE, "-"),
    "exact+rungs": (BLUE, "--"),
    "exact+prior": (BLUE, ":"),
    "exact+brief-prior": (SKY, ":"),
    "gp": (VERMILION, "-"),
    "tpe": (ORANGE, "-"),
    "nsga2": (GREEN, "-"),
    "random": (GREY, "-"),
    "qmc": (PURPLE, ":"),
    "brief": (SKY, "-."),
}


def _draw(answer: dict[str, dict[str, Any]], folder: Path) -> None:
    """One panel a space and budget: hypervolume against images trained, with bands of one standard deviation."""
    columns = min(2, len(answer))
    rows = -(-len(answer) // columns)
    with figure(3.5 * columns, 2.6 * rows, nrows=rows, ncols=columns, squeeze=False) as (fig, axes):
        for axis, (name, curves) in zip(axes.flat, answer.items(), strict=False):
            for strategy, curve in curves.items():
                colour, line = LOOKS.get(strategy, (BLACK, "-"))
                images, mean, std = (np.array(curve[key]) for key in ("images", "mean", "std"))
                axis.plot(images, mean, line, color=colour, label=strategy, linewidth=1.2)
                axis.fill_between(images, mean - std, mean + std, color=colour, alpha=0.12, linewidth=0)
            low = min(curve["mean"][min(5, len(curve["mean"]) - 1)] for curve in curves.values())
            axis.set_ylim(max(0.0, low - 0.05), 1.005)
            axis.set_xlabel(f"images trained ({name} budget)")
            axis.set_ylabel("hypervolume, share of the whole")
        axes.flat[0].legend(ncols=2, frameon=False)
        save(fig, folder, "samplers")


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
