"""How many seconds of training does a search need to find the front at the target, if it may train at proxies of it?

    python benchmarks/proxy_search.py [--seeds 20] [--json]
    python benchmarks/proxy_search.py --table reports/examples/proxies/proxies.csv

``multi`` is the exact-cost sampler over several fidelities: it chooses a configuration and where to train it. The
others train everything at one fidelity: each sampler at the target (``exact``, ``tpe``, ``nsga2``, ``gp``,
``random``), and at each proxy (``exact at 256 images at 112 px``). All propose by the very code that a search runs.

Counted is what a search would hand over, at the true accuracies of the target: the front of what it trained, by the
accuracies that it saw, and of ``multi`` by those that its surrogate expects at the target. (A search of several
fidelities then trains what it has of that front at proxies alone; a search at one proxy does not.) The hypervolume is a
share of that of all configurations within the budget. Seconds are those of the table.

Without --table it runs on ``studies/accuracy_table``, whose trainings were looked at after each epoch: there one epoch
is the proxy of four. A table of ``benchmarks/proxies.py`` holds configurations that were trained at several image sizes
and numbers of images; all that were trained at every fidelity are taken.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import optuna
import torch
from optuna.trial import TrialState, create_trial
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks share a module, run as scripts or not

from benchmarks.spaces import Outcome, Tabled, read_table
from bsr_explorer import pareto
from bsr_explorer.config import Config
from bsr_explorer.search.choices import NO_PROXIES
from bsr_explorer.search.exact import ExactCostSampler
from bsr_explorer.search.features import Floats
from bsr_explorer.search.proposals import derived_seed, propose

TABLE = Path(__file__).parents[1] / "studies" / "accuracy_table" / "table.csv"
SAMPLERS = ("exact", "tpe", "nsga2", "gp", "random")
LOOSE, TIGHT = 0.98, 0.5
"""Shares of the configurations that a budget lets in."""

AT = (0.95, 0.97, 0.99)
"""Shares of the whole hypervolume that are waited for."""


class Several(Tabled):
    """A table of accuracies at several fidelities, the target first.

    Attributes:
        names: of the fidelities.
        found: at each fidelity, the accuracies of each row, one a seed.
        seconds: (fidelities, n) of one training.
    """

    def __init__(
        self,
        methods: dict[str, list[list[float]]],
        seconds: Floats,
        names: Sequence[str],
        config: Config,
        budget: float,
    ) -> None:
        """``methods``: of each method, and each fidelity, the accuracies."""
        at_target = {text: [Outcome({1: v}, {1: 1}) for v in found[0]] for text, found in methods.items()}
        super().__init__(at_target, config, budget)
        self.names, self.seconds = names, seconds
        self.found = [[found[level] for found in methods.values()] for level in range(len(names))]
        self.costs = seconds.mean(axis=1) / self.flops.mean()

    def at(self, row: int, level: int, generator: np.random.Generator) -> float:
        """The accuracy of one training."""
        return float(generator.choice(self.found[level][row]))


@cache
def epochs(budget: float) -> Several:
    """The accuracy table: all epochs, and the first one alone."""
    config = Config("deit_s", 64, batch_size=32)
    outcomes = read_table(TABLE)
    methods = {
        text: [[o.history[max(o.history)] for o in each], [o.history[min(o.history)] for o in each]]
        for text, each in outcomes.items()
    }
    images = np.array([each[0].images[max(each[0].images)] for each in outcomes.values()], dtype=float)
    first = np.array([each[0].images[min(each[0].images)] for each in outcomes.values()], dtype=float)
    return Several(methods, np.stack([images, first]), ("all epochs", "one epoch"), config, budget)


@cache
def proxies(file: Path, target: str, cheaper: tuple[str, ...], budget: float) -> Several:
    """A table of ``benchmarks/proxies.py``, as far as it holds the same configurations at every fidelity."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    taken: dict[str, dict[str, float]] = defaultdict(dict)
    with file.open() as lines:
        for row in csv.DictReader(lines):
            if row["status"] == "finished":
                found[row["method"]][row["proxy"]].append(float(row["history"].split()[-1]))
                taken[row["method"]][row["proxy"]] = float(row["seconds"])
    names = (target, *cheaper)
    whole = [method for method in found if all(name in found[method] for name in names)]
    methods = {method: [found[method][name] for name in names] for method in whole}
    seconds = np.array([[taken[method][name] for method in whole] for name in names])
    return Several(methods, seconds, names, Config("deit_s", 224, batch_size=32), budget)


@dataclass(frozen=True)
class Piece:
    """One search of one strategy: a sampler, and where it trains (None: where it wants to)."""

    table: tuple[Any, ...]
    budget: float
    sampler: str
    level: int | None
    seed: int

    @property
    def choices(self) -> Several:
        return proxies(*self.table, self.budget) if self.table else epochs(self.budget)

    @property
    def strategy(self) -> str:
        if self.level is None:
            return "multi"
        return self.sampler if self.level == 0 else f"{self.sampler} at {self.choices.names[self.level]}"

    def __call__(self, most: float) -> list[tuple[float, float]]:
        """(seconds, share of the hypervolume that is handed over) after each training, for so many seconds."""
        torch.set_num_threads(1)
        warnings.filterwarnings("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        choices, generator = self.choices, np.random.default_rng(derived_seed(self.seed, "outcomes"))
        choices.efforts = choices.costs if self.level is None else NO_PROXIES
        seen: list[Any] = []
        done: set[str] = set()
        told: dict[int, float] = {}
        curve, spent = [], 0.0
        while spent < most:
            seed = derived_seed(self.seed, self.strategy, len(seen))
            proposal = propose(choices, self.sampler, seen, [], done, seed, study_seed=self.seed)
            if proposal is None:
                break
            candidate = proposal.candidate
            row, proxy = int(candidate.key), candidate.proxy
            level = proxy if self.level is None else self.level
            accuracy = choices.at(row, level, generator)
            spent += float(choices.seconds[level, row])
            done.add(candidate.place)
            seen.append(
                create_trial(
                    state=TrialState.PRUNED if proxy else TrialState.COMPLETE,
                    params=choices.encode(candidate),
                    distributions=dict(choices.distributions),
                    values=None if proxy else [accuracy, float(choices.sizes[row])],
                    system_attrs=proposal.system_attrs,
                    user_attrs={
                        "history": {"1": accuracy} if proxy else {},
                        "proxy": proxy,
                        "counted_bytes": int(choices.sizes[row]),
                        "train_flops": int(choices.flops[row]),
                    },
                )
            )
            if self.level is None:
                front = [int(c.key) for c in ExactCostSampler(choices).expected_front(seen)]
            else:
                told[row] = accuracy
                front = front_of(choices, told)
            curve.append((spent, choices.volume(front) / choices.whole))
        return curve


def front_of(choices: Several, told: dict[int, float]) -> list[int]:
    """The rows of the front by these accuracies."""
    rows = list(told)
    return [rows[place] for place in pareto.front(choices.sizes[rows], [-told[row] for row in rows])]


def reached(curve: Sequence[tuple[float, float]], level: float) -> float:
    """Seconds after which the share is there for good."""
    after = float("inf")
    for seconds, share in reversed(curve):
        if share < level:
            break
        after = seconds
    return after


def at(curve: Sequence[tuple[float, float]], seconds: float) -> float:
    """The share after so many seconds."""
    return max(((s, v) for s, v in curve if s <= seconds), default=(0.0, 0.0))[1]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table", type=Path, help="CSV of benchmarks/proxies.py; the accuracy table if left out"
    )
    parser.add_argument("--target", default="256 images at 224 px", help="of the table, what is to be found")
    parser.add_argument("--proxy", action="append", help="of the table; may be given several times")
    parser.add_argument("--samplers", default=",".join(SAMPLERS), help="of " + ", ".join(SAMPLERS))
    parser.add_argument(
        "--trainings", type=int, default=40, help="seconds of so many trainings at the target"
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cheaper = tuple(options.proxy or ["256 images at 112 px"])
    table = (options.table, options.target, cheaper) if options.table else ()
    answer = {}
    for word, budget in (("loose", LOOSE), ("tight", TIGHT)):
        answer[word] = judged(table, budget, options)
    if options.json:
        print(json.dumps(answer))
        return
    console = Console(width=150)
    for word, lines in answer.items():
        shown = RichTable(
            "strategy", *(f"after {n}" for n in lines["after"]), *(f"to {share:.0%}" for share in AT)
        )
        for name, line in lines["strategies"].items():
            shares = [f"{mean:.3f} ± {std:.3f}" for mean, std in line["shares"]]
            shown.add_row(name, *shares, *(f"{seconds:.1f}" for seconds in line["seconds"]))
        shown.title = (
            f"{word} budget, {lines['configurations']} configurations; time in trainings at the target"
        )
        console.print(shown)


def judged(table: tuple[Any, ...], budget: float, options: argparse.Namespace) -> dict[str, Any]:
    """What each strategy reaches, in units of a mean training at the target: median seconds, mean shares."""
    choices = Piece(table, budget, "exact", 0, 0).choices
    unit = float(choices.seconds[0].mean())
    samplers = options.samplers.split(",")
    levels = range(len(choices.names))
    kinds: list[tuple[str, int | None]] = [
        ("exact", None),
        *((s, level) for level in levels for s in samplers),
    ]
    pieces = [Piece(table, budget, *kind, seed) for seed in range(options.seeds) for kind in kinds]
    curves: dict[str, list[Any]] = defaultdict(list)
    most = options.trainings * unit
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        multiprocessing.get_context("fork").Pool(options.jobs) as workers,
    ):
        bar = progress.add_task("searching", total=len(pieces))
        for piece, curve in workers.imap(_call, [(piece, most) for piece in pieces]):
            curves[piece.strategy].append(curve)
            progress.advance(bar)
    after = [n for n in (3, 5, 8, 12, 20, 40) if n <= options.trainings]
    return {
        "configurations": len(choices.sizes),
        "after": after,
        "strategies": {
            name: {
                "shares": [
                    (float(np.mean(values)), float(np.std(values)))
                    for n in after
                    for values in [[at(curve, n * unit) for curve in of]]
                ],
                "seconds": [float(np.median([reached(curve, share) for curve in of])) / unit for share in AT],
            }
            for name, of in curves.items()
        },
    }


def _call(work: tuple[Piece, float]) -> tuple[Piece, list[tuple[float, float]]]:
    piece, most = work
    return piece, piece(most)


if __name__ == "__main__":
    main()
