"""How much faster is a study whose trials share frozen blocks, and is the accuracy the same?

    python benchmarks/prefix_cache.py

Trains each trial twice, with the outputs of its frozen blocks made once for all trials and without, in turn and in
one process, so that a machine whose speed drifts slows both. The seconds are those of whole trials: building the
model, loading weights and images, measuring steps, training, evaluating after each epoch; the first cached trial
fills the cache. Losses and accuracies must be equal to the last bit.

What can be gained is in the FLOPs (printed as "at most"): a step through 12 blocks of which the last 3 train is 12
passes forward and 6 backward, cached it is 3 and 6, half of it; an evaluation becomes 4 times cheaper. In 36 blocks
the same 3 leave a fifth of a step and a twelfth of an evaluation. What does not get shorter are two steps of each
trial that go the whole way, to be measured. About 25 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file

from bsr_explorer import Config, Fidelity, Record, fine_tune, predict
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build, pick_device
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.weights import create_model
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.store.records import write_text

RATES = (1e-4, 2e-4, 4e-4, 8e-4)
"""Learning rates of the trials, in turn; each trial has a seed of its own too."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="deit_s, vit_small_patch16_36x1_224", help="separated by commas")
    parser.add_argument("--method", default="last(k=3)")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--weights", help="default: offline where they are installed and fit, else random")
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--train-size", type=int, default=256)
    parser.add_argument("--val-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="a file for the same as JSON")
    options = parser.parse_args()
    fidelity = Fidelity(options.image_size, options.train_size, options.val_size, options.epochs)
    rows = []
    for model in options.models.split(","):
        config = Config(
            model.strip(),
            options.image_size,
            batch_size=options.batch_size,
            method=options.method,
            device=pick_device(options.device),
        )
        weights = options.weights or _weights_for(config)
        rows.append(study(config, fidelity, options.data, weights, options.trials, options.data_dir))
    if options.out:
        write_text(options.out, json.dumps(rows, indent=1) + "\n")
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"{options.data}, {options.image_size} px, {options.train_size} images to train on and "
        f"{options.val_size} to validate on, {options.epochs} epochs; {options.trials} trials of each:"
    )
    print(
        "| model, method | blocks made once | a trial | a trial, cached | filling | the study | at most | accuracy |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        same = "the same to the last bit" if row["identical"] else "NOT THE SAME"
        print(
            f"| {row['model']} ({row['weights']}), `{row['method']}` | {row['cached_blocks']} of {row['blocks']} "
            f"| {row['trial_seconds']:.1f} s | {row['cached_trial_seconds']:.1f} s | {row['filling_seconds']:.1f} s "
            f"| {row['seconds']:.0f} s → {row['cached_seconds']:.0f} s: {row['faster']:.2f}x faster "
            f"| {row['at_most']:.2f}x | {same}, {row['accuracy']:.1%} on average |"
        )


def study(
    config: Config, fidelity: Fidelity, data: str, weights: str, trials: int, data_dir: Path | None = None
) -> dict[str, Any]:
    """The trials of a study, each with and without the cache."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    records: dict[bool, list[Record]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as progress:
        start = _one_for_all(config, Path(folder)) if weights == "random" else weights
        bar = progress.add_task(f"{config.model}, {config.method}", total=2 * trials)
        for trial in range(trials):
            rate = RATES[trial % len(RATES)]
            for cached in (trial % 2 == 1, trial % 2 == 0):
                began = time.perf_counter()
                record = fine_tune(
                    Config(**{**config.to_dict(), "lr": rate}),
                    data,
                    fidelity,
                    start,
                    seed=trial,
                    data_dir=data_dir,
                    every_epoch=True,
                    cache=Cache(Path(folder) / "cache") if cached else None,
                )
                seconds[cached].append(time.perf_counter() - began)
                records[cached].append(record)
                progress.advance(bar)
    pairs = list(zip(records[False], records[True], strict=True))
    later = seconds[True][1:] or seconds[True]
    return {
        "model": config.model,
        "method": str(config.method),
        "weights": weights,
        "trials": trials,
        "blocks": 1 + max(row.block for row in predict(config) if row.block is not None),
        "cached_blocks": records[True][0].provenance["cached_blocks"],
        "seconds": sum(seconds[False]),
        "cached_seconds": sum(seconds[True]),
        "trial_seconds": median(seconds[False]),
        "cached_trial_seconds": median(later),
        "filling_seconds": max(0.0, seconds[True][0] - median(later)),
        "faster": sum(seconds[False]) / sum(seconds[True]),
        "at_most": _at_most(config, fidelity, records[True][0].provenance["cached_blocks"]),
        "identical": all((a.history, a.losses) == (b.history, b.losses) for a, b in pairs),
        "accuracy": sum(record.accuracy or 0.0 for record in records[True]) / trials,
    }


def _one_for_all(config: Config, folder: Path) -> str:
    """Random weights in a file, all but the head's: drawn from a trial's seed, they would be each trial's own."""
    state = build(config.with_method("full")).state_dict()
    save_file(
        {name: w for name, w in state.items() if not name.startswith("head.")}, folder / "random.safetensors"
    )
    return str(folder / "random.safetensors")


def _at_most(config: Config, fidelity: Fidelity, blocks: int) -> float:
    """By how much the FLOPs of training and evaluation shrink if frozen blocks cost nothing at all."""
    costs = predict(config)
    below = sum(row.flops for row in costs if row.kind == "forward" and row.block in range(blocks))
    train, validate = fidelity.train_size or 0, fidelity.val_size or 0
    whole = train * costs.train_flops + validate * costs.forward_flops
    return whole / (whole - (train + validate) * below)


def _weights_for(config: Config) -> str:
    try:
        create_model(timm_name(config.model), image_size=config.image_size, num_classes=2, weights="offline")
    except UserError:
        return "random"
    return "offline"


if __name__ == "__main__":
    main()
