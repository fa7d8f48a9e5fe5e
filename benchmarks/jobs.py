"""How much sooner does a search end whose trials run at once?

    python benchmarks/jobs.py

Runs the same trials one at a time and several at once, each in a process of its own as in `search --jobs N`, in turn
and in one process, so that a machine whose speed drifts slows both. Where several run at once they share the cores:
each then computes with fewer threads, so that what is gained is what one trial alone leaves idle, and what threads
lose by waiting for each other. About 8 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from bsr_explorer import Config, Fidelity, Record
from bsr_explorer.finetune.build import pick_device
from bsr_explorer.finetune.job import Job
from bsr_explorer.prediction import geometry_of
from bsr_explorer.search.executors.base import Done, Task
from bsr_explorer.search.executors.machine import cores
from bsr_explorer.search.executors.processes import Processes

METHODS = ("linear", "last(k=1)", "last(k=3)", "bsr", "full")
"""The trials, in turn."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", default="1,2", help="trials at once, separated by commas")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--train-size", type=int, default=128)
    parser.add_argument("--val-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = Config(
        options.model,
        options.image_size,
        batch_size=options.batch_size,
        device=pick_device(options.device),
    )
    fidelity = Fidelity(options.image_size, options.train_size, options.val_size, options.epochs)
    job = Job(options.data, fidelity, options.weights, data_dir=options.data_dir)
    rows = compare(config, job, list(map(int, options.jobs.split(","))), options.trials, options.rounds)
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{options.trials} trials of {options.model}, {cores()} cores; seconds of {options.rounds} rounds:")
    print("| at once | threads each | seconds (median, range) | against the first | accuracies |")
    print("|---|---|---|---|---|")
    for row in rows:
        same = "the same" if row["identical"] else "not all the same: other threads add up in another order"
        low, high = min(row["seconds"]), max(row["seconds"])
        print(
            f"| {row['jobs']} | {row['threads'] or 'all'} | {median(row['seconds']):.1f} ({low:.1f}–{high:.1f}) "
            f"| {row['faster']:.2f}x | {same} |"
        )


def compare(config: Config, job: Job, jobs: list[int], trials: int, rounds: int) -> list[dict[str, Any]]:
    """The same trials with so many at once, in turn in each round.

    Returns:
        A row of each: ``seconds`` of each round, how much ``faster`` it is than the first (the median of the
        rounds' ratios), whether accuracies are ``identical`` to the first's.
    """
    depth = geometry_of(config).depth
    tasks = []
    for number in range(trials):
        actual = config.with_method(METHODS[number % len(METHODS)])
        tasks.append(Task(number, actual, actual.key(depth), job))
    executors = [Processes(count, ["sklearn.datasets"]) for count in jobs]
    train(executors[0], tasks[:1])  # starts the process that all are forked from
    seconds: list[list[float]] = [[] for _ in jobs]
    accuracies: list[list[float | None]] = [[] for _ in jobs]
    for _ in range(rounds):
        for place, workers in enumerate(executors):
            began = time.perf_counter()
            records = train(workers, tasks)
            seconds[place].append(time.perf_counter() - began)
            accuracies[place] = [records[number].accuracy for number in range(trials)]
    return [
        {
            "jobs": workers.jobs,
            "threads": workers.threads,
            "seconds": taken,
            "faster": median(first / own for first, own in zip(seconds[0], taken, strict=True)),
            "identical": found == accuracies[0],
        }
        for workers, taken, found in zip(executors, seconds, accuracies, strict=True)
    ]


def train(workers: Processes, tasks: list[Task]) -> dict[int, Record]:
    """Run tasks, as many at once as the executor takes; returns their records by number."""
    waiting, records, running = list(tasks), {}, 0
    while waiting or running:
        while waiting and running < workers.jobs:
            workers.begin(waiting.pop(0))
            running += 1
        for event in workers.wait(lambda *_: None, 60.0):
            assert isinstance(event, Done), event
            records[event.number] = event.record
            running -= 1
    return records


if __name__ == "__main__":
    main()
