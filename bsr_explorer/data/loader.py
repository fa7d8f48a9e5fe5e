"""Batches of a part of the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bsr_explorer.data.images import ImageSplit
from bsr_explorer.errors import UserError


def loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    drop_last: bool,
    workers: int = 0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of images (B, 3, S, S) and labels (B,).

    The order of every epoch follows from ``seed``; a second epoch has another order than the first.

    Args:
        dataset: a part of ``Splits``.
        batch_size: images a batch, B.
        shuffle: whether to draw in random order.
        seed: of the order, and of the augmentation where there are workers.
        drop_last: whether to leave out a last batch that is not full.
        workers: processes that load images. Images that are kept in memory need none and get none.

    Raises:
        UserError: ``drop_last`` with fewer images than a batch, which would leave nothing.
    """
    count = len(dataset)  # type: ignore[arg-type]  # torch leaves __len__ to the data sets that have one
    if drop_last and count < batch_size:
        raise UserError(f"--batch-size: {batch_size} is more than the {count} images; choose at most {count}")
    if isinstance(dataset, ImageSplit) and dataset.kept:
        workers = 0
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed),
    )
