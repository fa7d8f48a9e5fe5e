"""Does it really learn? The paper's blocks with and without drop beside the usual baselines.

    python benchmarks/learning.py --out reports/learning

fashion_mnist, 1,500 training images at 112 px, 4 epochs, deit_s with the offline weights, 3 seeds: about
an hour on 2 CPU cores. Each run leaves a record; the same command runs only what is missing. Expected:
the more is trained, the better, with linear probing last; dropping tokens costs a little accuracy.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from itertools import count
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.progress import Progress

from bsr_explorer import Config, Fidelity, Record, fine_tune, predict
from bsr_explorer.store.records import read_records, write_record, write_text
from bsr_explorer.units import in_mb

METHODS = (
    "linear",
    "bsr(blocks=(3, 7, 11), keep={3: 0.5, 6: 0.5, 9: 0.5}, fuse=True)",
    "bsr(blocks=(3, 7, 11), keep={3: 0.5, 6: 0.5, 9: 0.5}, fuse=True, faithful=False)",
    "last(k=3)",
    "bsr(blocks=(3, 7, 11), keep={}, fuse=True)",
    "full",
)


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("reports/learning"))
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--weights", default="offline")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--train-size", type=int, default=1500)
    parser.add_argument("--val-size", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the table as JSON too")
    options = parser.parse_args()
    fidelity = Fidelity(train_size=options.train_size, val_size=options.val_size, epochs=options.epochs)
    jobs = [(seed, method) for seed in range(options.seeds) for method in METHODS]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(jobs))
        for number, (seed, method) in enumerate(jobs):
            progress.update(bar, description=f"seed {seed}, {method}", completed=number)
            kept = read_records(options.out)
            if (seed, method) not in {(record.seed, record.method) for record in kept.values()}:
                config = Config(model=options.model, image_size=options.image_size, method=method)
                record = fine_tune(config, options.data, fidelity, options.weights, seed)
                write_record(options.out, next(free for free in count() if free not in kept), record)
    rows = table(list(read_records(options.out).values()))
    page = markdown(rows, next(iter(read_records(options.out).values())))
    write_text(options.out / "table.md", page)
    print(json.dumps(rows) if options.json else page)


def table(records: list[Record]) -> list[dict[str, object]]:
    """One row a method: accuracy over seeds, seconds, memory here and at 224 px."""
    runs: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        runs[record.method].append(record)
    rows: list[dict[str, object]] = []
    for method, rs in runs.items():
        scores = [100 * r.accuracy for r in rs if r.accuracy is not None]
        here = predict(Config.from_dict(rs[0].config))
        at_224 = predict(Config.from_dict({**rs[0].config, "image_size": 224}))
        full_224 = predict(Config.from_dict({**rs[0].config, "image_size": 224, "method": "full"}))
        assert all(r.measured and r.measured["saved_bytes"] == r.predicted["saved_bytes"] for r in rs)
        rows.append(
            {
                "method": method,
                "seeds": len(scores),
                "accuracy": mean(scores),
                "std": stdev(scores) if len(scores) > 1 else 0.0,
                "seconds": mean(r.seconds for r in rs),
                "memory_mb": in_mb(here.peak_bytes),
                "saved_mb": in_mb(here.saved_bytes),
                "memory_224_mb": in_mb(at_224.peak_bytes),
                "saving_224": full_224.peak_bytes / at_224.peak_bytes,
            }
        )
    return sorted(rows, key=lambda row: float(str(row["memory_224_mb"])))


def markdown(rows: list[dict[str, object]], record: Record) -> str:
    """The table as a page that says how it was made."""
    lines = [
        "# Does it learn?",
        "",
        f"`{record.config['model']}` at {record.config['image_size']} px, batch {record.config['batch_size']}, "
        f"{record.fidelity['epochs']} epochs, recipe `{record.fidelity['recipe']}`; data `{record.data}` "
        f"({record.split}); weights: {record.weights}. Accuracy is {record.accuracy_is}, mean ± standard "
        "deviation over the seeds. Memory is the peak of a step, predicted; the saved bytes of every run were "
        "measured and equal to the prediction.",
        "",
        "| method | accuracy (%) | seeds | seconds | memory at this size (MB) | of it saved "
        "| memory at 224 px (MB) | full ÷ this |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row['method']}` | {row['accuracy']:.1f} ± {row['std']:.1f} | {row['seeds']} | {row['seconds']:.0f} "
            f"| {row['memory_mb']:,.0f} | {row['saved_mb']:,.0f} "
            f"| {row['memory_224_mb']:,.0f} | {row['saving_224']:.2f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
