"""How much faster is a step, and how much less does it hold, than full fine-tuning?

    python benchmarks/step_time.py --model deit_s --batch-size 8

Times real steps of each method and of full fine-tuning in turn, in one process, so that a machine whose
speed drifts slows both; the ratio of a pair is taken, and the median of the pairs is printed. The paper
says 2.43x (training time on a GPU, ViT-B) and 5.47x (its own accounting of memory, batch 32).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from math import inf
from statistics import median

import torch

from bsr_explorer import Config, build
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.prediction import counted_bytes
from bsr_explorer.run import device_of, make_step, measure, pick_device
from bsr_explorer.train.recipes import recipe
from bsr_explorer.train.step import image_dtype, in_precision

METHODS = (
    "bsr",
    "bsr(blocks=(3, 7, 11), keep={}, fuse=True)",
    "last(k=3)",
    "linear",
    "checkpoint",
    "bsr+checkpoint",
    "offload",
)


class Stepper:
    """A configuration's training step, one after another on the same batch."""

    def __init__(self, config: Config) -> None:
        device = device_of(config)
        model = in_precision(build(config), config.precision).to(device).train()
        self.step = make_step(model, config, recipe("short"))
        shape = (config.batch_size, 3, config.image_size, config.image_size)
        self.images = torch.randn(shape).to(device, image_dtype(config.precision))
        self.labels = torch.zeros(config.batch_size, dtype=torch.int64, device=device)

    def seconds(self) -> float:
        """Duration of one step."""
        began = time.perf_counter()
        self.step(self.images, self.labels)
        if self.images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began


def main() -> None:
    """Print the table of ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    full = Config(
        options.model,
        options.image_size,
        batch_size=options.batch_size,
        precision=options.precision,
        method="full",
        device=pick_device(options.device),
    )
    rows = [compare(full, full.with_method(method), options.pairs) for method in METHODS]
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"{options.model}, {options.image_size} px, batch {options.batch_size}, {options.precision}, "
        f"{full.device}; full fine-tuning over each:"
    )
    print("| method | step time | saved, measured | peak, measured | paper's accounting, batch 32 |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| `{row['method']}` | {row['time']:.2f}x ({row['least']:.2f}–{row['most']:.2f}) | {row['saved']:.2f}x "
            f"| {row['peak']:.2f}x | {row['published_32']:.2f}x |"
        )


def compare(full: Config, other: Config, pairs: int) -> dict[str, object]:
    """Ratios of full fine-tuning to a method."""
    steppers = Stepper(full), Stepper(other)
    for stepper in steppers:
        stepper.seconds()
    ratios = [steppers[0].seconds() / steppers[1].seconds() for _ in range(pairs)]
    del steppers
    found = [measure(config) for config in (full, other)]
    paper = [counted_bytes(replace(config, batch_size=32), "published") for config in (full, other)]
    return {
        "method": str(other.method),
        "time": median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "saved": found[0].saved_bytes / found[1].saved_bytes if found[1].saved_bytes else inf,
        "peak": found[0].peak_bytes / found[1].peak_bytes,
        "published_32": paper[0] / paper[1],
    }


if __name__ == "__main__":
    main()
