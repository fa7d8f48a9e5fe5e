"""How far is a predicted peak from the measured one? Ours beside four others, over many configurations.

    python benchmarks/peak.py --device cpu --configs 200
    python benchmarks/peak.py --device cuda --configs 100 --out reports/peak-cuda

Prints the median and the worst relative error of each predictor. On the CPU (about 20 minutes on 2 cores)
DeiT-Ti and DeiT-S of 12 blocks, small images and batches, every number format, optimiser and attention path;
on CUDA DeiT-Ti, -S, -B and ViT-B at 224 px, batch 8 to 128, fp32 and bf16, SGD and AdamW. Against:

* MemTracker: torch's own tracker, run on the real step (it has to run what it predicts). It crashes where
  a parameter is frozen, and only its figures where it does not are counted;
* published: the BSR paper's rule (activations × batch + parameters);
* 4 x parameters: a well-known estimator's rule for training with Adam (weights, gradients, two moments);
* fvcore: its count of activations × 4 bytes, on top of the true parameters, gradients and optimiser state.

The peak is that of tensors on the CPU (what kernels take within a call is said apart), and of the
allocator on CUDA, after a step that warms it up.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bsr_explorer import Config, predict
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build, device_of, make_step
from bsr_explorer.finetune.measure import measure
from bsr_explorer.ledger import Ledger
from bsr_explorer.prediction import counted_bytes
from bsr_explorer.report import style
from bsr_explorer.store.provenance import provenance
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import image_dtype, in_precision

OURS = "bsr-explorer"
METHODS = (
    "full",
    "linear",
    "last(k={k})",
    "bitfit",
    "bsr",
    "bsr-random",
    "checkpoint",
    "bsr+checkpoint",
    "offload",
)


def draw(rng: random.Random, device: str) -> Config:
    """A random configuration for a device."""
    return _for_cuda(rng) if device == "cuda" else _for_cpu(rng)


def _for_cpu(rng: random.Random) -> Config:
    model = rng.choice(("deit_t", "deit_t", "deit_s", "vit_t"))
    micro_batches = rng.choice((1, 1, 1, 2))
    optimizer = rng.choice(("adamw", "adamw", "sgd", "sgd_momentum", "adamw_8bit"))
    kernels = ("auto",) if optimizer == "adamw_8bit" else ("auto", "foreach", "fused")
    precision = rng.choice(("fp32", "fp32", "amp_bf16", "amp_fp16", "bf16"))
    if (precision, optimizer) == ("amp_fp16", "sgd_momentum"):
        kernels = ("auto", "foreach")
    return Config(
        model=model,
        image_size=rng.choice((64, 96, 112, 128, 160)),
        num_classes=rng.choice((10, 100)),
        batch_size=rng.choice((1, 2, 4, 8, 12)) * micro_batches,
        precision=precision,
        optimizer=optimizer,
        attention=rng.choice(("fused", "fused", "math")),
        method=_method(rng, 12),
        implementation=rng.choice(kernels),
        micro_batches=micro_batches,
        set_to_none=rng.random() < 0.8,
    )


def _for_cuda(rng: random.Random) -> Config:
    return Config(
        model=rng.choice(("deit_t", "deit_s", "deit_b", "vit_b")),
        batch_size=rng.choice((8, 16, 32, 64, 128)),
        precision=rng.choice(("fp32", "amp_bf16", "bf16")),
        optimizer=rng.choice(("sgd", "adamw")),
        attention=rng.choice(("fused", "fused", "math")),
        method=rng.choice(("full", "linear", "last(k=3)", "bsr", "checkpoint")),
        implementation=rng.choice(("auto", "fused")),
        device="cuda",
    )


def _method(rng: random.Random, depth: int) -> str:
    name = rng.choice(METHODS)
    if name == "bsr-random":
        blocks = tuple(block for block in range(depth) if rng.random() < 0.4)
        keep = {block: rng.choice((0.3, 0.5, 0.7)) for block in range(depth) if rng.random() < 0.25}
        return f"bsr(blocks={blocks}, keep={keep}, fuse={rng.random() < 0.5})"
    return name.format(k=rng.randint(1, depth))


# --- predictors -----------------------------------------------------------------------------------------


def _memtracker(config: Config, predicted: Ledger) -> float | None:
    """Its peak, or None where it crashes."""
    from torch.distributed._tools.mem_tracker import MemTracker

    device = device_of(config)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    rules = Recipe("peer", "", config.optimizer, lr=1e-4, weight_decay=0.0, epochs=1, batch_size=1)
    model = in_precision(build(config), config.precision).to(device)
    step = make_step(model, config, rules)
    images = torch.randn(shape).to(device, image_dtype(config.precision))
    labels = torch.zeros(shape[0], dtype=torch.int64, device=device)
    step(images, labels)
    while step.skipped:  # its peak too is that of a steady step
        step(images, labels)
    tracker = MemTracker()
    try:
        tracker.track_external(step.model, step.optimizer, images, labels)
        with warnings.catch_warnings(), tracker:
            warnings.simplefilter("ignore")
            step(images, labels)
    except (RuntimeError, AttributeError, KeyError, AssertionError):
        return None
    finally:
        torch.nn.modules.module._global_forward_hooks.clear()
        torch.nn.modules.module._global_forward_pre_hooks.clear()
    snapshot = tracker.get_tracker_snapshot("peak")  # by devices with their numbers: cuda:0
    return float(next(of["Total"] for there, of in snapshot.items() if there.type == device.type))


def _published(config: Config, predicted: Ledger) -> float:
    return counted_bytes(config, "published")


def _four_times(config: Config, predicted: Ledger) -> float:
    return 4 * predicted.parameter_bytes


def _fvcore(config: Config, predicted: Ledger) -> float:
    from fvcore.nn import ActivationCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    shape = (config.micro_batch_size, 3, config.image_size, config.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = build(Config(**{**config.to_dict(), "method": "full", "precision": "fp32", "device": "cpu"}))
        analysis = ActivationCountAnalysis(plain.eval(), torch.zeros(shape))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        activations = 4 * analysis.total()
    return activations + predicted.bytes_of("parameter", "gradient", "optimizer", "input")


PREDICTORS: dict[str, Callable[[Config, Ledger], float | None]] = {
    OURS: lambda config, predicted: predicted.peak_bytes,
    "torch MemTracker": _memtracker,
    "published": _published,
    "4 x parameters": _four_times,
    "fvcore x 4 bytes": _fvcore,
}


def compare(config: Config) -> dict[str, Any]:
    """The measured peak of a configuration and what each predictor says."""
    predicted = predict(config)
    measured = measure(config)
    assert predicted.peak is not None
    return {
        "config": config.to_dict(),
        "measured": measured.peak_bytes,
        "scratch": measured.scratch_bytes,
        "phase": predicted.peak.phase,
        "predicted": {name: predictor(config, predicted) for name, predictor in PREDICTORS.items()},
    }


# --- answers --------------------------------------------------------------------------------------------


def errors(compared: list[dict[str, Any]], name: str) -> list[float]:
    """Predicted over measured, minus one, where the predictor gave an answer."""
    pairs = ((case["predicted"][name], case["measured"]) for case in compared)
    return [said / true - 1 for said, true in pairs if said is not None]


def rows(compared: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row a predictor: how many answers, and the distribution of the absolute error."""
    for name in PREDICTORS:
        found = [abs(error) for error in errors(compared, name)]
        if found:
            yield {
                "predictor": name,
                "answers": len(found),
                "exact": sum(error == 0 for error in found),
                "median": median(found),
                "p90": float(np.quantile(found, 0.9)),
                "worst": max(found),
            }


def table(answer: list[dict[str, Any]], cases: int) -> Table:
    """The rows, to be printed."""
    made = Table("predictor", "answers", "to the byte", "median error", "9 in 10 within", "worst", box=SIMPLE)
    for row in answer:
        percent = (f"{100 * row[key]:.4g} %" for key in ("median", "p90", "worst"))
        made.add_row(row["predictor"], f"{row['answers']} of {cases}", str(row["exact"]), *percent)
    return made


def draw_figure(compared: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Share of configurations whose error is at most so much, a line a predictor."""
    colours = (style.BLUE, style.VERMILION, style.ORANGE, style.GREEN, style.PURPLE)
    with style.figure(4.4, 2.7) as (fig, axes):
        for name, colour in zip(PREDICTORS, colours, strict=True):
            found = np.sort([max(abs(error), 1e-8) for error in errors(compared, name)])
            share = 100 * np.arange(1, len(found) + 1) / len(compared)
            axes.step([1e-8, *(100 * found)], [0, *share], where="post", color=colour, label=name, lw=1.5)
        axes.axvline(1, color="0.4", lw=0.8, ls="--")
        axes.text(0.85, 96, "1 %", fontsize=7, color="0.3", ha="right", va="top")
        axes.set_xscale("log")
        axes.set_xlim(1e-6, 300)
        axes.set_xlabel("error of the predicted peak (%, absolute, logarithmic)")
        axes.set_ylabel("configurations within (%)")
        axes.grid(alpha=0.25, lw=0.5)
        fig.legend(loc="outside upper center", ncols=3, frameon=False)
        return style.save(fig, folder, "peak_error")


def main() -> None:
    """Compare, print the table, and write it with its figure and cases if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--configs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the table, the figure and all cases")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what the peers' libraries say about themselves
    rng = random.Random(options.seed)
    drawn = [draw(rng, options.device) for _ in range(options.configs)]
    try:
        device_of(drawn[0])
    except UserError as error:
        sys.exit(str(error))
    compared = [compare(config) for config in track(drawn, "comparing", disable=options.json)]
    answer = list(rows(compared))
    if options.json:
        print(json.dumps({"device": options.device, "rows": answer, "cases": compared}))
    else:
        Console().print(table(answer, len(compared)))
        far = [case for case in compared if abs(case["predicted"][OURS] / case["measured"] - 1) > 0.01]
        for case in far:
            print(f"{case['predicted'][OURS] / case['measured'] - 1:+.2%}", case["config"])
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        draw_figure(compared, options.out)
        made = {"provenance": provenance(options.device), "rows": answer, "cases": compared}
        (options.out / "peak.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
