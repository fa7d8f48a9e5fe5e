"""Splits as several tests load them, and data sets written to disk."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bsr_explorer.data.images import ImageSplit
from bsr_explorer.data.loader import loader
from bsr_explorer.data.splits import Splits, load_splits

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def load(data: str, data_dir: Path = Path("nowhere"), **options: Any) -> Splits:
    return load_splits(data, **{"image_size": 16, "data_dir": data_dir, "mean": MEAN, "std": STD, **options})


def parts(splits: Splits) -> tuple[ImageSplit, ImageSplit, ImageSplit]:
    return splits.train, splits.validation, splits.test


def identities(part: ImageSplit) -> set[Any]:
    return {(part.pool_key, int(index)) for index in part.indices}


def sizes(splits: Splits) -> tuple[int, ...]:
    return tuple(len(part) for part in parts(splits))


def assert_disjoint(splits: Splits) -> None:
    sets = [identities(part) for part in parts(splits)]
    assert len(set.union(*sets)) == sum(sizes(splits)), "an image is in two parts, or twice in one"


def pixels(part: ImageSplit, items: list[int], epoch: int = 0) -> Tensor:
    part.turn_to(epoch)
    return torch.stack([image for image, _ in part.__getitems__(items)])


def batches(part: ImageSplit, **options: Any) -> list[tuple[Tensor, Tensor]]:
    return list(loader(part, 20, **{"shuffle": False, "seed": 0, "drop_last": False, **options}))


def write_idx(folder: Path, *, train: int = 60, test: int = 20, packed: bool = True) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        arrays = {
            "images-idx3": rng.integers(0, 256, (count, 28, 28), dtype=np.uint8),
            "labels-idx1": np.arange(count, dtype=np.uint8) % 10,
        }
        for content, array in arrays.items():
            shape = np.asarray(array.shape, dtype=">i4").tobytes()
            raw = bytes((0, 0, 8, array.ndim)) + shape + array.tobytes()
            name = f"{prefix}-{content}-ubyte"
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)


def make_folder(root: Path, counts: dict[str, int], width: int = 12, height: int = 12) -> None:
    """Images whose red says the column and whose blue tells them apart."""
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.zeros((height, width, 3), dtype=np.uint8)
            pixels[..., 0], pixels[..., 2] = np.arange(width), number
            Image.fromarray(pixels).save(root / label / f"{number}.png")
