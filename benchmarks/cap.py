"""Is a predicted peak what a device must have? Steps under a real limit, just above and just below it.

    python benchmarks/cap.py --device cpu
    python benchmarks/cap.py --device cuda

Each step runs in a process of its own that the system keeps from allocating more: on the CPU by a limit on
its data (``RLIMIT_DATA``, Linux), on CUDA by ``set_per_process_memory_fraction``. With the predicted peak plus a margin
it must end, with the peak minus the margin it must fail for want of memory. On the CPU the margin is taken of what a
step adds to what stands (weights, optimiser state, images), for what Python and its libraries hold is not the step's;
large blocks go back to the system as soon as they are freed. On CUDA it is taken of what is predicted to be reserved,
from the process's first step on; with less a step may still end, for the allocator gives back what it keeps before it
fails.
About 3 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bsr_explorer import Config, build, predict
from bsr_explorer.cli.console import found_gpu
from bsr_explorer.finetune.build import device_of, make_step
from bsr_explorer.train.recipes import Recipe

CASES: tuple[dict[str, Any], ...] = (
    {"method": "full", "optimizer": "sgd"},
    {"method": "full", "optimizer": "adamw"},
    {"method": "last(k=3)", "optimizer": "adamw"},
    {"method": "bsr", "optimizer": "adamw"},
    {"method": "linear", "optimizer": "adamw"},
    {"method": "checkpoint", "optimizer": "sgd"},
)

NO_MEMORY = 3
"""Exit code of a step that could not allocate."""


def _warmed_up(config: Config) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A step that has run before, so that optimiser state and the libraries' own memory exist."""
    device = device_of(config)
    rules = Recipe("cap", "", config.optimizer, lr=1e-4, weight_decay=0.0, epochs=1, batch_size=1)
    step = make_step(build(config).to(device).train(), config, rules)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    images = torch.randn(shape, device=device)
    labels = torch.zeros(config.batch_size, dtype=torch.int64, device=device)
    for _ in range(2):
        step(images, labels)
    return step, images, labels


def one(config: Config, share: float) -> None:
    """Run a step within the predicted peak, its margin added or taken off; exit with its outcome."""
    config = replace(config, gpu=found_gpu(config.device))
    predicted = predict(config)
    if config.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(predicted.reserved_bytes * (1 + share) / total)
    step, images, labels = _warmed_up(config)
    if config.device == "cpu":
        standing = predicted.bytes_of("parameter", "optimizer", "input")
        allowed = _data_bytes() + (predicted.peak_bytes - standing) * (1 + share)
        resource.setrlimit(resource.RLIMIT_DATA, (int(allowed), int(allowed)))
    try:
        step(images, labels)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        os._exit(NO_MEMORY)  # nothing more can be allocated, not even for a farewell
    os._exit(0)


def _data_bytes() -> int:
    """What the limit counts of this process now."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


def run(config: Config, share: float) -> str:
    """The outcome of a step in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(config.to_dict()), "--share", str(share)]
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "16384",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, NO_MEMORY):
        sys.exit(f"the step itself failed: {ended.stderr[-500:]}")
    return "runs" if ended.returncode == 0 else "fails"


def main() -> None:
    """Run every case above and below its predicted peak; exit 1 if one does not behave."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--margin", type=float, default=0.01, help="share of the peak, such as 0.01")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--share", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(Config.from_dict(json.loads(options.one)), options.share)
    rows = []
    for case in CASES:
        config = Config(
            model=options.model,
            image_size=options.image_size,
            batch_size=options.batch_size,
            device=options.device,
            **case,
        )
        above, below = run(config, options.margin), run(config, -options.margin)
        rows.append({**case, "peak_bytes": predict(config).peak_bytes, "above": above, "below": below})
    if options.json:
        print(json.dumps({"device": options.device, "margin": options.margin, "rows": rows}))
    else:
        percent = f"{options.margin:.0%}"
        made = Table("method", "optimiser", "predicted peak MB", f"limit {percent} above", f"{percent} below")
        for row in rows:
            made.add_row(
                row["method"], row["optimizer"], f"{row['peak_bytes'] / 1e6:,.1f}", row["above"], row["below"]
            )
        Console().print(made)
    sys.exit(any((row["above"], row["below"]) != ("runs", "fails") for row in rows))


if __name__ == "__main__":
    main()
