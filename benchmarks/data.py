"""Images a second that reach a model: this loader beside torchvision's transforms on each image, in the same run.

    python benchmarks/data.py [--images 256] [--size 224] [--rounds 3] [--json]

A folder of photographs (synthetic JPEG files of 320 × 240, which are written first) is loaded in batches of 32, to
normalised float32. Beside each other, in turn, round by round:

* *peer*: a ``DataLoader`` over torchvision's ``ImageFolder``, transforms on each image, in this process; *peer,
  workers*: in as many processes as there are cores.
* *ours, first*: images are decoded, resized, and kept as pixels, as in a first epoch; *ours*: later epochs. *ours, not
  kept*: of more images than are kept. Batches are normalised as a whole.

Of two recipes: without augmentation, and with random crops and flips, which are made of the files in each epoch. Said
is the median of the rounds. On a GPU batches are normalised there, and that is not measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from bsr_explorer.cli.console import out, table
from bsr_explorer.data import images as kept
from bsr_explorer.data.loader import Pixels, loader
from bsr_explorer.data.splits import load_splits
from bsr_explorer.train.recipes import IMAGENET

BATCH = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.images)
        rows = measured(Path(folder), options.size, options.rounds)
    if options.json:
        print(
            json.dumps(
                {"images": options.images, "size": options.size, "cores": os.cpu_count(), "rows": rows}
            )
        )
        return
    shown = [(row["augment"], row["loader"], f"{row['images_a_second']:,.0f}") for row in rows]
    out.print(table(["augmentation", "loader", "images/s"], shown, left=(0, 1)))


def write(folder: Path, count: int) -> None:
    """Images of two classes, which compress as photographs do: smooth, with some noise."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((320, 240), Image.Resampling.BICUBIC)).astype(int)
        noisy = np.clip(smooth + generator.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        path = folder / "train" / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, quality=90)


def measured(folder: Path, size: int, rounds: int) -> list[dict[str, Any]]:
    """Images a second of each loader, for each recipe."""
    rows = []
    for augment in ("none", "crop_flip"):
        ways = loaders(folder, size, augment)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        images = 0
        for _ in range(rounds):
            for name, epoch in ways.items():
                began = time.perf_counter()
                images = sum(len(batch) for batch in epoch())
                seconds[name].append(time.perf_counter() - began)
        rows += [
            {"augment": augment, "loader": name, "images_a_second": images / median(taken)}
            for name, taken in seconds.items()
        ]
    return rows


def loaders(folder: Path, size: int, augment: Any) -> dict[str, Callable[[], Iterable[torch.Tensor]]]:
    """By name, what gives the batches of an epoch over the same number of images."""
    mean, std = IMAGENET

    def ours(keeps: bool) -> tuple[Pixels, DataLoader[Any]]:
        before = kept.KEPT_BYTES
        kept.KEPT_BYTES = before if keeps else 0
        part = load_splits(
            str(folder), image_size=size, data_dir=folder, mean=mean, std=std, augment=augment
        ).train
        kept.KEPT_BYTES = before
        made = loader(part, BATCH, shuffle=True, seed=0, drop_last=False, raw=True)
        assert isinstance(made.dataset, Pixels)
        return made.dataset, made

    def epoch(raw: Pixels, made: DataLoader[Any]) -> Iterable[torch.Tensor]:
        return (raw.ready(images) for images, _ in made)

    def first() -> Iterable[torch.Tensor]:
        kept._STORE.clear()
        return epoch(*ours(True))

    cut = v2.RandomResizedCrop(size, (0.05, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
    still = v2.Compose([v2.Resize(size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)])
    transform = v2.Compose(
        [
            still if augment == "none" else v2.Compose([cut, v2.RandomHorizontalFlip()]),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )
    count = len(ours(True)[0])
    files = torch.utils.data.Subset(ImageFolder(str(folder / "train"), transform), range(count))

    def peer(workers: int) -> Iterable[torch.Tensor]:
        made = DataLoader(files, batch_size=BATCH, shuffle=True, num_workers=workers)
        return (images for images, _ in made)

    ways: dict[str, Callable[[], Iterable[torch.Tensor]]] = {
        "peer": lambda: peer(0),
        "peer, workers": lambda: peer(os.cpu_count() or 1),
    }
    if augment == "none":
        again, anew = ours(True), ours(False)
        ways |= {
            "ours, first": first,
            "ours": lambda: epoch(*again),
            "ours, not kept": lambda: epoch(*anew),
        }
    else:
        each = ours(True)
        ways |= {"ours": lambda: epoch(*each)}
    return ways


if __name__ == "__main__":
    main()
