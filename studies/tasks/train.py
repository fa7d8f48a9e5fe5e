"""Five tasks, one backbone: a mixture of experts fine-tuned by several methods, as in the BSR paper.

    python studies/tasks/train.py --minutes 40 [--out reports/tasks]

All five data sets are here without a download: scikit-learn's digits, Fashion-MNIST (Debian's package, or downloaded
once), and three that are made of them (``bsr_explorer.data.expression``). DeiT-S has the offline weights (extra
``demo``), and its mixtures begin as its MLPs. Each line of ``table.csv`` is one training: the accuracy of each task on
the validation images, their mean, and what a step saves, holds and computes, predicted and measured. What is there
already is not trained again; a training that was killed starts anew.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.rows import append_row, read_rows
from bsr_explorer.cli.console import err, out, table
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data.places import classes_of
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.methods import parse_method
from bsr_explorer.prediction import predict
from bsr_explorer.store.records import Record

MODEL = "moe_vit(deit_s, blocks=(3, 7, 11), experts=8, top=2)"
DATA = "tasks(digits, fashion_mnist, turned(fashion_mnist), swapped(fashion_mnist), sums(digits))"
METHODS = ("full", "last(k=3)", "bsr", "bsr+freeze('experts')")


def main() -> None:
    """Train what is not in the table yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=40.0, help="no further training is begun then")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="method expressions")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default=DATA, help="an expression of tasks")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=64, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--train-size", type=int, default=1600, help="training images, an equal share of each task"
    )
    parser.add_argument("--val-size", type=int, default=1000, help="validation images, likewise")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("reports/tasks"), help="folder of the table")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    for method in options.methods:
        parse_method(method)
    config = Config(options.model, options.image_size, batch_size=options.batch_size, method="full")
    config = config.with_classes(classes_of(options.data))
    fidelity = Fidelity(train_size=options.train_size, val_size=options.val_size, epochs=options.epochs)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "table.csv"
    known = {(row["method"], row["seed"]) for row in read_rows(file)}
    for seed in range(options.seeds):
        for method in options.methods:
            here = config.with_method(method)
            if (str(here.method), str(seed)) in known or time.monotonic() > ends:
                continue
            record = fine_tune(here, options.data, fidelity, options.weights, seed)
            append_row(file, row_of(here, seed, record))
            err.print(f"{here.method}, seed {seed}: {100 * (record.accuracy or 0):.1f}%", markup=False)
    rows = read_rows(file)
    if rows:
        out.print(table(list(rows[0]), [list(row.values()) for row in rows], left=(0,)))


def row_of(config: Config, seed: int, record: Record) -> dict[str, Any]:
    """A line of the table. Memory is that of a step, as it was predicted; ``… off`` is by how much the training's own
    steps held something else."""
    predicted, measured = predict(config), record.measured or {}
    if record.status != "finished" or record.accuracy is None:
        raise SystemExit(f"{config.method}, seed {seed}: {record.status}: {record.reason}")
    return {
        "method": str(config.method),
        "seed": seed,
        **{f"{task} (%)": f"{100 * value:.1f}" for task, value in record.accuracy_by_task.items()},
        "mean (%)": f"{100 * record.accuracy:.1f}",
        "saved MB": f"{predicted.saved_bytes / 1e6:.2f}",
        "saved off": measured["saved_bytes"] - measured["predicted_saved_bytes"],
        "peak MB": f"{predicted.peak_bytes / 1e6:.2f}",
        "peak off": measured["peak_bytes"] - measured["predicted_peak_bytes"],
        "GFLOPs a step": f"{predicted.train_flops / 1e9:.1f}",
        "step s": f"{record.step_seconds:.2f}",
        "seconds": f"{record.seconds:.0f}",
    }


if __name__ == "__main__":
    main()
