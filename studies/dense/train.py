"""Digits on a canvas, found pixel by pixel: what a head for dense prediction costs, and what it learns.

    python studies/dense/train.py --minutes 10 [--out reports/dense]

Scikit-learn's handwritten digits (real, 8×8 pixels) are enlarged and pasted, four at a time, onto a canvas of noise;
the label of a pixel is 0 for the canvas and 1 + the digit where ink is. No digit is in both parts. DeiT-S with the
offline weights (or others, ``--weights``) gets a linear head, or a small UPerNet; all of it trains, its last blocks,
or the head alone. Quality is the mean IoU over the 11 classes of the validation images, after the last epoch. Bytes and
FLOPs are predicted, and measured in a real step, at the size that is trained at.

Each training appends a line to ``trainings.csv``; killed, the same command goes on. It needs no download and no hub.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script: the benchmarks' helpers stand in the root

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rows import append_row, read_rows
from bsr_explorer.cli.console import out, table
from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build, make_step
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.weights import create_model
from bsr_explorer.prediction import predict
from bsr_explorer.train.optimizer import set_rates
from bsr_explorer.train.recipes import Recipe

HEADS = {"linear": 30.0, "upernet_lite": 10.0}
"""Each with its learning rate over that of the backbone: what starts from nothing takes more."""

METHODS = ("linear", "last(k=3)", "full")
CLASSES = 11
RECIPE = Recipe("dense", "ours", "adamw", lr=1e-4, weight_decay=0.05, epochs=6, batch_size=8)


def main() -> None:
    """Train what is missing, and show all there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="deit_s", help="alias or name of timm")
    parser.add_argument(
        "--weights", default="offline", help="offline, hub, random, or a file: of the backbone"
    )
    parser.add_argument("--size", type=int, default=112, help="side of the canvas, pixels")
    parser.add_argument("--images", type=int, default=96, help="to train on")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--heads", nargs="+", default=HEADS, choices=HEADS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("reports/dense"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file, ends = options.out / "trainings.csv", time.monotonic() + 60 * options.minutes
    known = {(row["head"], row["method"]) for row in read_rows(file)}
    train = canvases(options.images, options.size, training=True)
    validation = canvases(64, options.size, training=False)
    for head in options.heads:
        for method in options.methods:
            if (head, method) in known or time.monotonic() > ends:
                continue
            model = f'bsr_explorer.models.dense:{head}(backbone="{options.backbone}")'
            config = Config(model, options.size, CLASSES, RECIPE.batch_size, method=method)
            predicted, measured = predict(config), measure(config)
            began = time.process_time()
            trained = fit(config, head, options.backbone, options.weights, train, options.epochs)
            row = {
                "head": head,
                "method": method,
                "mean IoU %": f"{100 * mean_iou(predictions(trained, validation[0]), validation[1]):.1f}",
                "saved MB": f"{predicted.saved_bytes / 1e6:.1f}",
                "saved off": measured.saved_bytes - predicted.saved_bytes,
                "peak MB": f"{predicted.peak_bytes / 1e6:.1f}",
                "peak off": measured.peak_bytes - predicted.peak_bytes,
                "GFLOPs": f"{predicted.train_flops / 1e9:.0f}",
                "FLOPs off": measured.train_flops - predicted.train_flops,
                "CPU s": f"{time.process_time() - began:.0f}",
            }
            append_row(file, row)
    rows = read_rows(file)
    if rows:
        out.print(table(list(rows[0]), [list(row.values()) for row in rows], left=(0, 1)))


# --- data -------------------------------------------------------------------------------------------------


def canvases(count: int, size: int, training: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Digits on canvases.

    Args:
        count: images.
        size: their side, pixels.
        training: whether of the first three quarters of the digits, or of the others.

    Returns:
        Images (count, 3, size, size) in [-1, 1], and the labels of their pixels (count, size, size).
    """
    from sklearn.datasets import load_digits

    digits, classes = load_digits(return_X_y=True)
    border = len(digits) * 3 // 4
    pool = np.arange(border) if training else np.arange(border, len(digits))
    random = np.random.default_rng([seed, training])
    images = torch.from_numpy(random.uniform(0.0, 0.3, (count, size, size))).float()
    labels = torch.zeros(count, size, size, dtype=torch.int64)
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        for corner, which in enumerate(random.choice(pool, 4, replace=False)):
            side = int(random.integers(half // 2, half + 1))
            top, left = (
                int(random.integers(0, half - side + 1)) + half * place for place in divmod(corner, 2)
            )
            digit = torch.from_numpy(digits[which]).float().reshape(1, 1, 8, 8) / 16
            ink = F.interpolate(digit, size=(side, side), mode="bilinear", align_corners=False)[0, 0]
            place = slice(top, top + side), slice(left, left + side)
            image[place] = torch.maximum(image[place], ink)
            label[place][ink > 0.4] = 1 + int(classes[which])
    return (2 * images - 1)[:, None].repeat(1, 3, 1, 1), labels


# --- training ---------------------------------------------------------------------------------------------


def fit(
    config: Config,
    head: str,
    backbone: str,
    weights: str,
    data: tuple[Tensor, Tensor],
    epochs: int,
    seed: int = 0,
) -> nn.Module:
    """Train a dense model whose backbone begins with such weights; the rate goes down to zero, linearly.

    Args:
        head: key of ``HEADS``.
    """
    model = build(config, pretrained=False, seed=seed)
    if weights != "random":
        body, _ = create_model(
            timm_name(backbone), image_size=config.image_size, num_classes=CLASSES, weights=weights
        )
        missing = (
            model.get_submodule("backbone").load_state_dict(body.state_dict(), strict=False).missing_keys
        )
        assert not missing, missing
    rules = replace(RECIPE, head_lr_scale=HEADS[head])
    step = make_step(model.train(), config, rules)
    steps = [batch for epoch in range(epochs) for batch in batches(len(data[0]), config.batch_size, epoch)]
    for done, batch in enumerate(steps):
        set_rates(step.optimizer, 1 - done / len(steps))
        step(data[0][batch], data[1][batch])
    return model


def batches(count: int, size: int, epoch: int) -> Iterator[Tensor]:
    """Places of the images of each full batch, in an order of the epoch's own."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
    return iter(order[: count - count % size].split(size))


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """The most likely class of each pixel, (N, S, S)."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part).argmax(dim=1) for part in images.split(16)])


def mean_iou(predicted: Tensor, labels: Tensor, classes: int = CLASSES) -> float:
    """Intersection over union of each class over all pixels, and the mean of those that occur."""
    counts = torch.bincount((labels * classes + predicted).flatten(), minlength=classes**2)
    confusion = counts.reshape(classes, classes).double()
    both = confusion.diagonal()
    either = confusion.sum(dim=0) + confusion.sum(dim=1) - both
    there = either > 0
    return float((both[there] / either[there]).mean())


if __name__ == "__main__":
    main()
