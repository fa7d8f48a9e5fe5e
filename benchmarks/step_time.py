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
from statistics import median

import torch
import torch.nn.functional as F

from bsr_explorer import Config, build, predict
from bsr_explorer.cost import published
from bsr_explorer.prediction import tape_of
from bsr_explorer.run import measure, pick_device
from bsr_explorer.train.loop import make_optimizer
from bsr_explorer.train.recipes import recipe

METHODS = ("bsr", "bsr(blocks=(3, 7, 11), keep={}, fuse=True)", "last(k=3)", "linear")


class Stepper:
    """A configuration's model and optimiser, with one step after another on the same batch."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.model = build(config).to(device).train()
        self.optimizer = make_optimizer(self.model, recipe("short"), config.batch_size)
        shape = (config.batch_size, 3, config.image_size, config.image_size)
        self.images = torch.randn(shape, device=device)
        self.labels = torch.zeros(config.batch_size, dtype=torch.int64, device=device)

    def seconds(self) -> float:
        """Duration of one step."""
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()
        if self.device.type == "cuda":
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
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = torch.device(pick_device(options.device))
    full = Config(options.model, options.image_size, batch_size=options.batch_size, method="full")
    rows = [compare(full, full.with_method(method), options.pairs, device) for method in METHODS]
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"{options.model}, {options.image_size} px, batch {options.batch_size}, {device}; full fine-tuning over each:"
    )
    print(
        "| method | step time | saved, measured | all held, exact prediction | paper's accounting, batch 32 |"
    )
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| `{row['method']}` | {row['time']:.2f}x ({row['least']:.2f}–{row['most']:.2f}) | {row['saved']:.2f}x "
            f"| {row['held']:.2f}x | {row['published_32']:.2f}x |"
        )


def compare(full: Config, other: Config, pairs: int, device: torch.device) -> dict[str, object]:
    """Ratios of full fine-tuning to a method."""
    steppers = Stepper(full, device), Stepper(other, device)
    for stepper in steppers:
        stepper.seconds()
    ratios = [steppers[0].seconds() / steppers[1].seconds() for _ in range(pairs)]
    del steppers
    small = [measure(replace(config, batch_size=min(4, config.batch_size))) for config in (full, other)]
    paper = [published.total_bytes(tape_of(replace(config, batch_size=32))) for config in (full, other)]
    return {
        "method": str(other.method),
        "time": median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "saved": small[0].saved_bytes / small[1].saved_bytes,
        "held": predict(full).held_bytes / predict(other).held_bytes,
        "published_32": paper[0] / paper[1],
    }


if __name__ == "__main__":
    main()
