"""Are decoder-only language models predicted exactly? Against real steps.

    python benchmarks/language.py [--configs 72] [--json]

Small decoders as Llama's: with all queries in groups of their own, grouped, and with one group; the loss whole and in
chunks; fused and explicit attention; frozen in several ways, in three number formats. Most run with plain SGD, so that
the peak is not that of AdamW's step. Saved bytes, FLOPs and held bytes are to be 0 off, peaks within 1%.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.steps import arguments, compared, show, spread_over
from bsr_explorer.config import Config

MODELS = (
    ("llama_tiny", "fused"),
    ("llama_tiny(vocabulary=4000, chunk=50)", "fused"),
    ("llama_tiny(groups=4, hidden=300)", "fused"),
    ("llama_tiny(groups=1, depth=3)", "math"),
)
WAYS = (
    "full",
    "linear",
    "last(k=1)",
    "bitfit",
    "blocks(0, norm=False)",
    "lora",
    "lora(on=('proj', 'fc1', 'fc2'))",
    "full+checkpoint",
)


def configs() -> list[Config]:
    """All that are compared."""
    return [
        Config(model, 64, 10, 8, precision, optimizer, attention, way)
        for model, attention in MODELS
        for precision, optimizer in (("fp32", "sgd"), ("bf16", "adamw"), ("amp_bf16", "sgd"))
        for way in WAYS
        if precision != "amp_bf16" or not way.startswith("lora")  # refused by name
    ]


def main() -> None:
    """Compare."""
    options = arguments(__doc__).parse_args()
    show(list(compared(spread_over(configs(), options.configs), options.minutes)), options.json)


if __name__ == "__main__":
    main()
