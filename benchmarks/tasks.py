"""Are steps of several tasks with one backbone predicted exactly? Against real steps.

    python benchmarks/tasks.py [--configs 60] [--minutes 5] [--json]

Plain vision transformers, traced models and mixtures of experts, with few classes and with so many that the loss is the
fullest moment of a step; trained whole and in part, in micro-batches, in three number formats. Saved bytes, FLOPs and
held bytes are to be 0 off, peaks within 1%.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.steps import arguments, compared, show, spread_over
from bsr_explorer.config import Config

MODELS = ("deit_t", "moe_vit(deit_t, experts=4, top=2)", "resnet18", "convnext_atto")
TASKS = ((10, 10, 4, 7, 19), (2, 3), (6000, 2000, 5))
WAYS = ("full", "linear", "last(k=2)", "bsr", "lora", "full+checkpoint")


def configs() -> list[Config]:
    """All that are compared."""
    return [
        Config(
            model,
            64,
            batch_size=16,
            precision=precision,
            optimizer=optimizer,
            method=way,
            micro_batches=parts,
        ).with_classes(tasks)
        for model in MODELS
        for tasks in TASKS
        for precision, optimizer, parts in (("fp32", "sgd", 1), ("bf16", "adamw", 2), ("amp_bf16", "sgd", 1))
        for way in WAYS
        if way not in ("bsr", "lora") or model == "deit_t" or (way == "bsr" and model.startswith("moe"))
    ]


def main() -> None:
    """Compare."""
    options = arguments(__doc__).parse_args()
    show(list(compared(spread_over(configs(), options.configs), options.minutes)), options.json)


if __name__ == "__main__":
    main()
