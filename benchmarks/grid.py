"""How fast are the costs of a whole space, beside tracing one configuration?

    python benchmarks/grid.py

Lays out all 4,096 block subsets of a 12-block model × drop schedules × fused or not, on one core, and
counts configurations a second; then measures one configuration by a real step (hooks and counters), which
is what one would do without a cost model. Expected: over a million a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

from bsr_explorer import Config
from bsr_explorer.cost import entries
from bsr_explorer.cost import grid as grids
from bsr_explorer.cost.peak import step_ledger
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.vit.reading import geometry
from bsr_explorer.prediction import tape_of

KEEP = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


def main() -> None:
    """Time both, and print configurations a second."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    shape = geometry(options.model)
    masks = grids.all_masks(shape.depth)
    schedules = list(
        dict.fromkeys(
            entries.schedule(dict(zip((3, 6, 9), keep, strict=True)), fuse)
            for keep in itertools.product(KEEP, repeat=3)
            for fuse in (False, True)
        )
    )

    def lay_out() -> grids.Grid:
        for cached in (entries._block_entry, entries._stem, entries._tail):
            cached.cache_clear()  # the table is built anew each time: nothing is free
        return grids.grid(shape, masks, schedules, [32])

    count = len(lay_out())
    whole = _median_seconds(lay_out, options.repeats)
    config = Config(model=options.model, batch_size=1, method="bsr")
    scalar = _median_seconds(lambda: step_ledger(tape_of(config), config.setup), options.repeats)
    traced = _median_seconds(lambda: measure(config), options.repeats)
    answer = {
        "configurations": count,
        "seconds": whole,
        "configurations_a_second": count / whole,
        "one_prediction_seconds": scalar,
        "one_tracing_measurement_seconds": traced,
        "grid_over_tracing": traced * count / whole,
    }
    if options.json:
        print(json.dumps(answer))
        return
    print(f"grid: {count:,} configurations in {whole:.3f} s, {count / whole:,.0f} a second on one core")
    print(f"one prediction alone: {1000 * scalar:.1f} ms")
    print(
        f"one tracing measurement (batch 1): {1000 * traced:.0f} ms, {traced * count / whole:,.0f} times a grid entry"
    )


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken)


if __name__ == "__main__":
    main()
