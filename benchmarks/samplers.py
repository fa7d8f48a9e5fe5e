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
Two lean on what is known of a table's task before any training (``studies/accuracy_table/hints.py``):
``exact+sensitivity`` on the gradients of blocks, ``exact+transfer`` on how well labels follow from frozen features.

Without --table and --budget both spaces run, at a loose budget (all fits, or nearly) and at a tight one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
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

from benchmarks.spaces import Listed, Synthetic, Tabled, read_table
from bsr_explorer import pareto
from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, figure, save
from bsr_explorer.search.features import Floats
from bsr_explorer.search.proposals import SAMPLERS, derived_seed, propose
from bsr_explorer.search.rungs import Seen, bars
from bsr_explorer.search.surrogate import Surrogate
from bsr_explorer.store.records import write_text
from bsr_explorer.units import parse_bytes
from studies.accuracy_table.hints import hints_of, schedule_of

HINTS = ("exact+sensitivity", "exact+transfer")
STRATEGIES = (*SAMPLERS, "exact+rungs", "exact+prior", "exact+brief-prior", *HINTS, "brief")
TRAININGS = 60
EARLIER = {"exact+prior": (24, False), "exact+brief-prior": (12, True)}
"""Configurations of the earlier study that a strategy begins with, and whether they stopped at the first rung."""

SLOW, SLOW_TRAININGS = ("exact", "exact+rungs", *EARLIER, *HINTS, "gp"), 40
LOOSE, TIGHT = 0.98, 0.3
"""Shares of the configurations that a budget lets in."""

OURS = ("exact", "exact+rungs", *EARLIER)
TABLE = Path(__file__).parents[1] / "studies" / "accuracy_table" / "table.csv"
RUNG_IMAGES = 400
"""Validation images of the synthetic space."""


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
    images = 0
    choices.prior = None
    if strategy in EARLIER:
        choices.prior = Earlier(choices, seed, *EARLIER[strategy])
        images = choices.prior.images
    elif strategy in HINTS:
        assert isinstance(choices, Tabled)  # checked before
        choices.prior = Hint(choices, strategy.partition("+")[2])
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


class Hint:
    """A guess at accuracies that stands in the place of an earlier study's, up to a factor and a level."""

    offset, scale = 0.0, 1.0

    def __init__(self, choices: Tabled, kind: str) -> None:
        known, depth = choices.hints, choices.depth
        if kind == "sensitivity":
            worth = np.sqrt(np.array(known["sensitivity"]))
            guess = np.sqrt(choices.features[:, :depth] @ (worth / worth.sum()))
        else:
            guess = np.array([known["transfer"][schedule_of(method)] for method in choices.methods])
        self._guesses = dict(
            zip(map(bytes, choices.features), (guess - guess.mean()) / guess.std(), strict=True)
        )

    def fitted(self, choices: Listed) -> Hint:
        return self

    def predict(self, rows: Floats) -> tuple[Floats, None]:
        return np.array([self._guesses[bytes(row)] for row in rows]), None


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
            _SPACES[key] = Tabled(read_table(table), config, budget, hints_of(table))
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
    parser.add_argument(
        "--samplers",
        default=",".join(name for name in STRATEGIES if name not in HINTS),
        help="of " + ", ".join(STRATEGIES),
    )
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
        asked = [name for name in strategies if name in HINTS]
        if asked and (space != "table" or not hints_of(table).exists()):
            raise UserError(f"--samplers: {asked[0]} needs a table with hints; leave it out")
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
    "exact+sensitivity": (BLUE, "-."),
    "exact+transfer": (BLUE, (0, (1, 3))),
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
