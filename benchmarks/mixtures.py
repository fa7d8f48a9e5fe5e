"""Are mixtures of experts predicted exactly, whatever their routing? Against real steps.

    python benchmarks/mixtures.py [--configs 64] [--steps 50] [--json]

Small vision transformers with mixtures in some blocks: without a capacity, with room to spare and with too little;
noisy and not; frozen in several ways, experts and gates among them; with tokens that are dropped in blocks with a
mixture and below them, so that experts get rows of fewer; in three number formats. Most run with plain SGD, so that the
peak is not that of AdamW's step. Saved bytes, FLOPs and held bytes are to be 0 off, peaks within 1%. Then so many steps
of one training are measured each by itself: what they save is to be the same, however the tokens are routed, and that
which was predicted; how many rows the fullest expert got is said beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.steps import arguments, compared, show, spread_over
from bsr_explorer.cli.console import err
from bsr_explorer.config import Config
from bsr_explorer.finetune.measure import batch_of, parts_of_a_step
from bsr_explorer.measurement.step import saved_rows
from bsr_explorer.models.moe.layer import Mixture
from bsr_explorer.prediction import predict

MODELS = (
    "moe_vit(deit_t)",
    "moe_vit(deit_t, capacity=1.25)",
    "moe_vit(deit_t, blocks=(1, 5, 9), experts=8, top=2, ratio=2, capacity=0.5, balance=0)",
    "moe_vit(deit_t, blocks=(11,), experts=4, top=4, ratio=4, noise=False)",
)
WAYS = (
    "full",
    "linear",
    "last(k=1)",
    "last(k=4)",
    "bitfit",
    "blocks(3, 7, 11)",
    "lora",
    "full+checkpoint",
)
DROPPING = (
    "bsr",
    "bsr(blocks=(5, 11), keep={0: 0.7, 5: 0.5, 11: 0.3}, fuse=False)",
    "full+evit(0.6)",
    "bsr+freeze('experts')",
    "last(k=1)+drop({2: 0.4}, fuse=True)+freeze('gate')",
    "full+drop({1: 0.5, 9: 0.5}, fuse=True)+freeze('experts', 'gate')+checkpoint",
)
"""Ways to drop tokens."""


def configs() -> list[Config]:
    """All that are compared."""
    found = [
        Config(model, 64, 10, 16, precision=precision, optimizer=optimizer, method=way)
        for model in MODELS
        for precision, optimizer in (("fp32", "sgd"), ("bf16", "adamw"), ("amp_bf16", "sgd"))
        for way in (*WAYS, *DROPPING)
        if precision != "amp_bf16" or not way.startswith("lora")  # refused by name
    ]
    explicit = [
        Config(MODELS[0], 64, 10, 5, attention="math", optimizer="sgd", method=way)
        for way in (*WAYS, *DROPPING)
    ]
    return [*found, *explicit]


def routed(config: Config, steps: int) -> Iterator[tuple[int, int]]:
    """Of steps of a training on random images: bytes that are saved, and rows of the fullest expert."""
    step, _, _ = parts_of_a_step(config)
    step.model.train()
    layers = [layer for layer in step.model.modules() if isinstance(layer, Mixture)]
    fullest: list[int] = []

    def look(layer: torch.nn.Module, given: tuple[torch.Tensor, ...], made: tuple[torch.Tensor, ...]) -> None:
        fullest.append(int(made[1].flatten().bincount().max()))

    for layer in layers:
        layer.gate.register_forward_hook(look)
    random = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images, labels = batch_of(config, step.model, random)
        fullest.clear()
        yield sum(row.bytes for row in saved_rows(step, images, labels)), max(fullest)
        step(images, labels)


def main() -> None:
    """Compare, and route."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=50, help="of one training, measured each by itself")
    options = parser.parse_args()
    rows = list(compared(spread_over(configs(), options.configs), options.minutes))
    config = Config(MODELS[0], 64, 10, 3, method="full")
    expected, differing = predict(config).saved_bytes, set[int]()
    if options.steps:
        found = list(routed(config, options.steps))
        differing = {saved for saved, _ in found} - {expected}
        most = [rows_of_one for _, rows_of_one in found]
        err.print(
            f"{options.steps} steps of {config.model}: {len({saved for saved, _ in found})} amount of saved bytes, "
            f"{expected:,} predicted, {len(differing)} others; the fullest expert got {min(most)} to {max(most)} rows",
            markup=False,
        )
    show(rows, options.json, differ=bool(differing))


if __name__ == "__main__":
    main()
