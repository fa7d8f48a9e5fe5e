"""A tiny language model, trained on docstrings and fine-tuned on the language reference, with several methods.

    python studies/language/train.py --minutes 20 [--out reports/language]

Both texts come with Python itself (``text.py``); tokens are bytes. A model is trained in full on the docstrings first
(its weights are kept beside the table, and git ignores them). Each method then fine-tunes it on the topics of
``help()``; the last tenth of these is held out, and the perplexity a byte of it is said: the exponential of the mean
cross entropy, of 256 for who knows nothing. Beside it stand what a step saves and holds at its peak, predicted and
measured. Lines are written to ``table.csv`` as they come, and what is there already is not trained again.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.rows import append_row, read_rows
from bsr_explorer.cli.console import err, out, table
from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build, make_step
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.language.loss import next_token_loss
from bsr_explorer.prediction import predict
from bsr_explorer.train.optimizer import rate_factor
from bsr_explorer.train.recipes import Recipe
from studies.language.text import docstrings, parted, sequences, topics

CONFIG = Config("llama_tiny", image_size=128, batch_size=16, method="full")
METHODS = (
    "linear",
    "last(k=1)",
    "last(k=2)",
    "lora",
    "lora(on=('qkv', 'proj', 'fc1', 'fc2'))",
    "full",
    "full+velora",
    "full+wtacrs",
    "full+asi",
    "full+wasi",
)
BEFORE = Recipe("language", "our own", "adamw", lr=2e-3, weight_decay=0.1, epochs=1, batch_size=16, clip=1.0)
AFTER = replace(BEFORE, lr=1e-3)


def main() -> None:
    """Train what is not in the table yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="no further training is begun then")
    parser.add_argument("--steps", type=int, default=400, help="of the first training")
    parser.add_argument("--tuning-steps", type=int, default=150, help="of each fine-tune")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="method expressions")
    parser.add_argument(
        "--out", type=Path, default=Path("reports/language"), help="folder of the table and the weights"
    )
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    start = first(options.out / "weights.pth", options.steps)
    train, held_out = parted(sequences(topics(), CONFIG.image_size))
    file = options.out / "table.csv"
    known = {(row["method"], row["seed"]) for row in read_rows(file)}
    if ("none", "0") not in known:
        append_row(file, row_of("none", 0, CONFIG, perplexity(start, held_out), 0.0))
    for seed in range(options.seeds):
        for method in options.methods:
            config = CONFIG.with_method(method)
            if (str(config.method), str(seed)) in known or time.monotonic() > ends:
                continue
            model = build(config, seed=seed)
            model.load_state_dict(start.state_dict(), strict=False)
            began = time.monotonic()
            fit(model, config, AFTER, train, options.tuning_steps, seed)
            seconds = time.monotonic() - began
            append_row(file, row_of(str(config.method), seed, config, perplexity(model, held_out), seconds))
    rows = read_rows(file)
    out.print(table(list(rows[0]), [list(row.values()) for row in rows], left=(0,)))


def first(file: Path, steps: int) -> nn.Module:
    """The model that was trained on docstrings: read, or trained now."""
    model = build(CONFIG)
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model
    train, held_out = parted(sequences(docstrings(), CONFIG.image_size))
    fit(model, CONFIG, BEFORE, train, steps, seed=0)
    err.print(f"docstrings held out: perplexity {perplexity(model, held_out):.3f} a byte", markup=False)
    torch.save(model.state_dict(), file)
    return model


def fit(model: nn.Module, config: Config, rules: Recipe, rows: Tensor, steps: int, seed: int) -> None:
    """Train on rows of bytes, drawn at random."""
    step = make_step(model, config, rules)
    random = torch.Generator().manual_seed(seed)
    model.train()
    for number in range(steps):
        batch = rows[torch.randint(len(rows), (config.batch_size,), generator=random)]
        step.rate = rate_factor(number, steps, rules)
        loss = float(step(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()))
        if not math.isfinite(loss):
            raise SystemExit(f"the loss was {loss} at step {number + 1}")
        if (number + 1) % 100 == 0:
            err.print(f"{config.method}: step {number + 1} of {steps}, loss {loss:.3f}", markup=False)


@torch.no_grad()
def perplexity(model: nn.Module, rows: Tensor) -> float:
    """A byte, of rows."""
    model.eval()
    losses = [next_token_loss(model(part[:, :-1]), part[:, 1:]) * len(part) for part in rows.split(64)]
    return math.exp(float(sum(losses)) / len(rows))


def row_of(method: str, seed: int, config: Config, perplexity: float, seconds: float) -> dict[str, Any]:
    """A line of the table."""
    row: dict[str, Any] = {"method": method, "seed": seed, "perplexity a byte": f"{perplexity:.3f}"}
    if method == "none":
        return {**row, "trained": 0, "saved MB": "", "peak MB": "", "peak off": "", "seconds": ""}
    predicted, measured = predict(config), measure(config)
    trained = sum(p.numel() for p in build(config).parameters() if p.requires_grad)
    assert predicted.saved_bytes == measured.saved_bytes
    return {
        **row,
        "trained": trained,
        "saved MB": f"{measured.saved_bytes / 1e6:.2f}",
        "peak MB": f"{measured.peak_bytes / 1e6:.2f}",
        "peak off": predicted.peak_bytes - measured.peak_bytes,
        "seconds": f"{seconds:.0f}",
    }


if __name__ == "__main__":
    main()
