"""Batches of a part of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bsr_explorer.data.images import ImageSplit
from bsr_explorer.errors import UserError

Made = TypeVar("Made")


class Pixels(Dataset[tuple[Tensor, Tensor]]):
    """Batches of an ``ImageSplit`` before they are normalised: images (B, 3, S, S) in uint8, and labels (B,).

    A quarter of the bytes goes to the device of a step, and ``ready`` normalises them there.
    """

    def __init__(self, split: ImageSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, items: list[int]) -> tuple[Tensor, Tensor]:
        """One batch as a whole."""
        return self.split.pixels(items), torch.from_numpy(self.split.labels[items])

    def turn_to(self, epoch: int) -> None:
        """Show the view of an epoch (0-based)."""
        self.split.turn_to(epoch)

    def ready(self, images: Tensor) -> Tensor:
        """A batch of them, normalised, in float32."""
        return self.split.normalised(images)


class ByTask(Sampler[list[int]]):
    """Batches of which each is of one task: the images of a task in random order, and the batches of all tasks, too.

    Args:
        groups: the first item of each task, and that after its last.
        generator: of the order.
    """

    def __init__(
        self, groups: Sequence[tuple[int, int]], batch_size: int, drop_last: bool, generator: torch.Generator
    ) -> None:
        self._groups, self._size, self._drop_last, self._random = groups, batch_size, drop_last, generator

    def __len__(self) -> int:
        return sum(
            (end - first) // self._size if self._drop_last else -(-(end - first) // self._size)
            for first, end in self._groups
        )

    def __iter__(self) -> Iterator[list[int]]:
        batches = []
        for first, end in self._groups:
            order = (first + torch.randperm(end - first, generator=self._random)).tolist()
            cut = [order[place : place + self._size] for place in range(0, len(order), self._size)]
            batches += [batch for batch in cut if len(batch) == self._size or not self._drop_last]
        for place in torch.randperm(len(batches), generator=self._random).tolist():
            yield batches[place]


def _as_it_is(batch: Made) -> Made:
    return batch


def fewest_together(dataset: Dataset[Any]) -> int:
    """Of how many images a batch may be at most, if each of its images is another: of all, or, where a batch is of one
    task, of those of the smallest."""
    groups: Sequence[tuple[int, int]] = getattr(dataset, "groups", ())
    whole = len(dataset)  # type: ignore[arg-type]  # torch leaves __len__ to the data sets that have one
    return min((end - first for first, end in groups), default=whole)


def loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    drop_last: bool,
    workers: int = 0,
    raw: bool = False,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of images (B, 3, S, S) and labels (B,).

    The order of every epoch follows from ``seed``; a second epoch has another order than the first.

    Args:
        dataset: a part of ``Splits``; if it has ``groups``, each batch is of one of them.
        batch_size: images a batch, B.
        shuffle: whether to draw in random order.
        seed: of the order, and of the augmentation where there are workers.
        drop_last: whether to leave out a last batch that is not full.
        workers: processes that load images. Images that are kept in memory need none and get none.
        raw: whether images come as pixels in uint8, where they are those of an ``ImageSplit``: see ``Pixels``.

    Raises:
        UserError: ``drop_last`` with fewer images than a batch, which would leave nothing.
    """
    count = len(dataset)  # type: ignore[arg-type]  # torch leaves __len__ to the data sets that have one
    if drop_last and count < batch_size:
        raise UserError(f"--batch-size: {batch_size} is more than the {count} images; choose at most {count}")
    if isinstance(dataset, ImageSplit) and dataset.kept:
        workers = 0
    pixels = raw and isinstance(dataset, ImageSplit)
    random = torch.Generator().manual_seed(seed)
    how: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last}
    groups: Sequence[tuple[int, int]] = getattr(dataset, "groups", ())
    if shuffle and groups:
        if drop_last and (fewest := min(end - first for first, end in groups)) < batch_size:
            raise UserError(
                f"--batch-size: {batch_size} is more than the {fewest} images of a task, and each batch is of one; "
                f"choose at most {fewest}, or batches=mixed"
            )
        how = {"batch_sampler": ByTask(groups, batch_size, drop_last, random)}
    return DataLoader(
        Pixels(dataset) if raw and isinstance(dataset, ImageSplit) else dataset,
        **how,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=random,
        collate_fn=_as_it_is if pixels else None,
    )
