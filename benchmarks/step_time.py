"""How long is a step, and how much less does it hold, than full fine-tuning's?

    python benchmarks/step_time.py --model deit_s --batch-size 8 --methods "bsr, last(k=3), checkpoint"

Times real steps of each method and of full fine-tuning in turn, in one process, so that a machine whose
speed drifts slows both; the ratio of a pair is taken, and the median of the pairs is printed. The paper
says that a step takes 0.41x full fine-tuning's time (2.43x faster; training time on a GPU, ViT-B) and 5.47x
less memory (its own accounting, batch 32).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from math import inf
from statistics import median

from bsr_explorer import Config
from bsr_explorer.finetune.build import pick_device
from bsr_explorer.finetune.measure import measure
from bsr_explorer.finetune.step_times import Stepper, in_turn
from bsr_explorer.methods import parse_methods
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.prediction import counted_bytes

METHODS = (
    "bsr, bsr(blocks=(3, 7, 11), keep={}, fuse=True), last(k=3), linear, checkpoint, bsr+checkpoint, offload, "
    "mesa, mesa(faithful=False), backrazor, backrazor(faithful=False), bsr+mesa, bsr+mesa(faithful=False)"
)


def main() -> None:
    """Print the table of ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--methods", default=METHODS, help="expressions, separated by commas")
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
    methods = parse_methods(options.methods)
    rows = [compare(full, full.with_method(method), options.pairs) for method in methods]
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"{options.model}, {options.image_size} px, batch {options.batch_size}, {options.precision}, "
        f"{full.device}; against full fine-tuning:"
    )
    print("| method | time of a step | saved, measured | peak, measured | paper's accounting, batch 32 |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| `{row['method']}` | {row['time']:.2f}x the time of full ({row['least']:.2f}–{row['most']:.2f}) "
            f"| {row['saved']:.2f}x less | {row['peak']:.2f}x less | {row['published_32']:.2f}x less |"
        )


def compare(full: Config, other: Config, pairs: int) -> dict[str, object]:
    """A method against full fine-tuning: its time over full's, and full's memory over its own."""
    steppers = [Stepper(full), Stepper(other)]
    in_turn(steppers, 1)  # makes the optimisers' state
    ratios = [its / fulls for fulls, its in zip(*in_turn(steppers, pairs), strict=True)]
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
