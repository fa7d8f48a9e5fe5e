"""What can be known before any training of a table's task, on which samplers may lean.

    python studies/accuracy_table/hints.py --task clothes

- **Sensitivity** of each block: the sum of squared gradients of its parameters, the mean of a few batches, once the
  head fits the frozen features (a ridge regression in closed form). A block that trains is worth the more, the steeper
  the loss is there (as in sparse updates: Lin and others 2022).
- **Transferability** of the frozen features after each drop schedule: LogME, the logarithm of the labels' evidence
  given the features, a label (You and others 2021).

Both take seconds. They are written beside the table, to ``TABLE_hints.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `studies`, where this file is run as a script

from benchmarks.rows import read_rows
from bsr_explorer import Config, build
from bsr_explorer.data.loader import loader
from bsr_explorer.data.splits import ImageSplit
from bsr_explorer.methods import Bsr, Method, parse_method
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.naming import TIMM
from bsr_explorer.store.records import write_text
from studies.accuracy_table import make, small_vit

Floats = NDArray[np.float64]

BATCHES = 4
"""Of 32 images, of which the sensitivities are means."""

RIDGE = 1.0
"""Penalty of the head's weights, in variances of the features."""


def hints_of(table: Path) -> Path:
    """Where the hints of a table stand, if there are any."""
    return table.with_name(f"{table.stem}_hints.json")


def schedule_of(method: Method) -> str:
    """The drop schedule of a method, as an expression that trains no block."""
    keep: dict[int, float] = {}
    fuse = False
    for part in parts_of(method):
        keep, fuse = dict(getattr(part, "keep", keep)), bool(getattr(part, "fuse", fuse))
    return str(Bsr((), keep, fuse and bool(keep), faithful=not (fuse and keep)))


def features(config: Config, weights: str, images: ImageSplit) -> tuple[Floats, NDArray[np.int64]]:
    """What the head sees: (images, width), and the labels."""
    model = build(config, weights=weights, seed=0).eval()
    seen: list[torch.Tensor] = []
    head = model.get_submodule("head")
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    labels = []
    with torch.no_grad():
        for pixels, label in loader(images, 200, shuffle=False, seed=0, drop_last=False):
            model(pixels)
            labels.append(label)
    return torch.cat(seen).double().numpy(), torch.cat(labels).numpy()


def logme(found: Floats, labels: NDArray[np.int64]) -> float:
    """Logarithm of the evidence of labels (n,) given features (n, d), a label: its mean over classes, each with
    precisions of weights and noise that make it largest (fixed point)."""
    n, d = found.shape
    u, s, _ = np.linalg.svd(found, full_matrices=False)
    squares = s**2
    evidence = []
    for label in range(int(labels.max()) + 1):
        y = (labels == label).astype(float)
        projected = (u.T @ y) ** 2
        beyond = float(y @ y - projected.sum())
        alpha, beta = 1.0, 1.0
        for _ in range(100):
            gamma = float((beta * squares / (alpha + beta * squares)).sum())
            weights = float((beta**2 * squares * projected / (alpha + beta * squares) ** 2).sum())
            error = float((projected * (alpha / (alpha + beta * squares)) ** 2).sum()) + beyond
            before, alpha, beta = alpha / beta, gamma / (weights + 1e-9), (n - gamma) / (error + 1e-9)
            if abs(alpha / beta - before) < 1e-3 * before:
                break
        evidence.append(
            n / 2 * np.log(beta)
            + d / 2 * np.log(alpha)
            - n / 2 * np.log(2 * np.pi)
            - beta / 2 * error
            - alpha / 2 * weights
            - 0.5 * (np.log(alpha + beta * squares).sum() + (d - len(squares)) * np.log(alpha))
        )
    return float(np.mean(evidence) / n)


def sensitivities(config: Config, weights: str, images: ImageSplit) -> list[float]:
    """Of each block: the mean over batches of the squared norm of its gradients."""
    found, labels = features(config.with_method("linear"), weights, images)
    model = build(config.with_method("full"), weights=weights, seed=0)
    _fit_head(model.get_submodule("head"), found, labels)
    squares = np.zeros(small_vit.DEPTH)
    batches = loader(images, make.BATCH, shuffle=True, seed=0, drop_last=True)
    for number, (pixels, label) in enumerate(batches):
        if number == BATCHES:
            break
        model.zero_grad()
        nn.functional.cross_entropy(model(pixels), label).backward()
        for name, parameter in model.named_parameters():
            block = TIMM.block_of(name)
            if block is not None and parameter.grad is not None:
                squares[block] += float((parameter.grad**2).sum()) / BATCHES
    return [float(f"{value:.4g}") for value in squares]


def _fit_head(head: nn.Module, found: Floats, labels: NDArray[np.int64]) -> None:
    targets = np.eye(len(head.bias))[labels]  # it may have outputs for classes that are not there
    centre, mean = found.mean(axis=0), targets.mean(axis=0)
    apart = found - centre
    ridge = RIDGE * float((apart**2).mean()) * len(found)
    solved = np.linalg.solve(apart.T @ apart + ridge * np.eye(apart.shape[1]), apart.T @ (targets - mean))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(solved.T))
        head.bias.copy_(torch.from_numpy(mean - centre @ solved))


def schedules(table: Path) -> Iterator[str]:
    """Each drop schedule of a table once."""
    yield from dict.fromkeys(schedule_of(parse_method(row["method"])) for row in read_rows(table))


def main() -> None:
    """Compute and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=make.TASKS, default="digits")
    parser.add_argument("--train-size", type=int, default=256)
    parser.add_argument("--out", type=Path, help="beside the table, if not said")
    options = parser.parse_args()
    task = make.TASKS[options.task]
    config = Config("small_vit", small_vit.IMAGE_SIZE, batch_size=make.BATCH)
    with tempfile.TemporaryDirectory() as folder:
        images = make.load(make.data_of(task, Path(folder))[1], config.image_size, options.train_size).train
        images[0]
    weights = str(task.weights)
    answer: dict[str, Any] = {
        "sensitivity": sensitivities(config, weights, images),
        "transfer": {
            how: round(logme(*features(config.with_method(how), weights, images)), 5)
            for how in sorted(schedules(task.table))
        },
    }
    write_text(
        options.out or hints_of(task.table),
        json.dumps(answer, indent=1) + "\n",
    )


if __name__ == "__main__":
    main()
