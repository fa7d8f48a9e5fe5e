"""Every method of the package on the same images: accuracy, and the learning rate that suits each.

    python studies/methods/train.py --minutes 120 [--out reports/methods]

DeiT-S with the offline weights on Fashion-MNIST at 112 px: 256 training images, 3 epochs, batches of 32, the recipe
``short``. Each method is trained with seed 0 at the recipe's learning rate, at three times of it, and at nine times of
it or a third of it, whichever lies beside the better of these two. (Methods with other scales would be wronged by one
learning rate for all.) The best by 500 validation images is then trained with seeds 1 and 2.

Each training appends a line to ``trainings.csv``; killed, the same command goes on, and nothing is trained twice.
Seconds are of CPU time, so that other work beside it does not count.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script: the benchmarks' helpers stand in the root

from benchmarks.rows import append_row, read_rows
from bsr_explorer import Config, Fidelity, fine_tune
from bsr_explorer.cli.console import out
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.train.recipes import recipe

METHODS = (
    "linear",
    "bitfit",
    "last(k=3)",
    "full",
    "full+mesa",
    "full+backrazor(faithful=False)",
    "full+velora",
    "full+wtacrs",
    "full+approxbp",
    "full+asi",
    "full+wasi",
    "lora",
    "lora_fa",
    "dora",
    "vera",
    "paca",
    "apla",
    "spt",
    "ia3",
    "adapter",
    "sparse_tuning",
    "vpt",
    "vpt(deep=True)",
    "lst",
    "dtl",
    "sherl",
    "losa",
    "repnet",
    "tinytl",
    "dtl(plus=True)",
    "dtl+approxbp",
    "full+tome(r=2)",
    "full+adapler",
    "bsr",
    "bsr(criterion='random')",
    "bsr(blocks=(3, 7, 11), keep={})",
    "bsr(blocks=(9, 10, 11), keep={9: 0.7})",
    "bsr(blocks=(9, 10, 11), keep={9: 0.7}, criterion='random')",
    "bsr(blocks=(9, 10, 11), keep={9: 0.7})+mesa",
    "bsr(blocks=(9, 10, 11), keep={9: 0.7})+velora+approxbp",
    "bsr+velora+approxbp",
    "last(k=3)+velora+approxbp",
    "lora+approxbp",
    "gradual",
    "lisa",
    "slimfit",
    "autofreeze(every=4)",
    "alast",
    "alast(K=6, draw='sample', stem=False)",
    "full+dropbp",
    "bsr+dropbp(draw='count')",
)
"""What is trained. Beside each BSR that drops tokens stands one that drops as many by chance."""

SAME = {
    "checkpoint": "full",
    "full+approxbp+msln": "full+approxbp",
    "lora+approxbp+msln": "lora+approxbp",
}
"""What is not: it computes what another does (tests hold both gradients equal), and its accuracy is that one's."""

STEP, SEEDS = 3.0, (1, 2)
"""Between learning rates that are tried; and the seeds beside 0, by which the rate is chosen."""

MOST = 3
"""Learning rates that are tried of a method, at most."""

SIZE, IMAGES, EPOCHS, VALIDATION, BATCH = 112, 256, 3, 500, 32

TRAININGS = "trainings.csv"


def main() -> None:
    """Train what is missing in the time that is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("reports/methods"))
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--methods", action="append", help="these alone; may be given several times")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")) / "methods")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file, began = options.out / TRAININGS, time.monotonic()
    methods = options.methods or METHODS
    while (following := next(missing(methods, read_rows(file)), None)) is not None:
        if time.monotonic() - began > 60 * options.minutes:
            break
        append_row(file, train(*following, options.cache))


def missing(methods: Sequence[str], rows: Sequence[dict[str, str]]) -> Iterator[tuple[str, float, int]]:
    """Method, learning rate and seed of what is still to be trained: every method at the recipe's rate first."""
    done = {(row["method"], row["lr"], row["seed"]) for row in rows}
    for step in range(MOST):
        for method in methods:
            tried = [row["lr"] for row in rows if row["method"] == method and row["seed"] == "0"]
            rate = next_rate(method, rows)
            if len(tried) <= step and rate is not None:
                yield method, rate, 0
    for seed in SEEDS:
        for method in methods:
            best = chosen_rate(method, rows)
            if (method, best, str(seed)) not in done:
                yield method, float(best), seed


def next_rate(method: str, rows: Sequence[dict[str, str]]) -> float | None:
    """The learning rate to try with seed 0: the recipe's, three times the highest tried as long as that is the best,
    or a third of the lowest as long as that is; None: the best lies between two that were tried."""
    own = recipe("short", "fashion_mnist").lr
    tried = sorted(float(row["lr"]) for row in rows if row["method"] == method and row["seed"] == "0")
    if not tried:
        return own
    best = float(chosen_rate(method, rows))
    if best == tried[-1]:
        return float(f"{best * STEP:.3g}")
    return float(f"{best / STEP:.3g}") if best == tried[0] else None


def chosen_rate(method: str, rows: Sequence[dict[str, str]]) -> str:
    """The learning rate of the best training with seed 0 (of several, the lowest)."""
    of = [row for row in rows if row["method"] == method and row["seed"] == "0"]
    return max(of, key=lambda row: (float(row["accuracy"]), -float(row["lr"])))["lr"]


def train(method: str, rate: float, seed: int, cache: Path) -> dict[str, str]:
    """One training, as a row."""
    worked = time.process_time()
    record = fine_tune(
        Config("deit_s", SIZE, batch_size=BATCH, method=method, lr=rate),
        data="fashion_mnist",
        fidelity=Fidelity(SIZE, IMAGES, VALIDATION, EPOCHS),
        weights="offline",
        seed=seed,
        cache=Cache(cache, 20 * 10**9),
    )
    worked = time.process_time() - worked
    accuracy = 0.0 if record.accuracy is None else record.accuracy
    out.print(f"{method} at {rate:.3g}, seed {seed}: {accuracy:.3f} in {worked:.1f} s", markup=False)
    return {
        "method": method,
        "lr": f"{rate:.3g}",
        "seed": str(seed),
        "status": record.status,
        "accuracy": f"{accuracy:.4f}",
        "seconds": f"{worked:.2f}",
        "torch": record.provenance.get("torch", ""),
    }


if __name__ == "__main__":
    main()
