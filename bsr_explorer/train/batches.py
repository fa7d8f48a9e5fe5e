"""Batches on their way to a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Sampler

Batch = tuple[torch.Tensor, torch.Tensor]


@runtime_checkable
class Raw(Protocol):
    """A data set whose images are made ready for the model on the device of a step."""

    def ready(self, images: torch.Tensor) -> torch.Tensor:
        """Make a batch of images, as they are loaded, ready."""
        ...


class After(Sampler[list[int]]):
    """The batches of a sampler but the first ones."""

    def __init__(self, batches: Iterable[list[int]], first: int) -> None:
        self.batches, self.first = batches, first

    def __iter__(self) -> Iterator[list[int]]:
        return islice(iter(self.batches), self.first, None)


def without(train: DataLoader[Batch], first: int) -> DataLoader[Batch]:
    """The same batches, drawn in the same order, but the first ones are not loaded."""
    if not first:
        return train
    assert train.batch_sampler is not None
    return DataLoader(
        train.dataset,
        batch_sampler=After(train.batch_sampler, first),
        num_workers=train.num_workers,
        generator=train.generator,
        collate_fn=train.collate_fn,
    )


def on_device(device: torch.device, loader: DataLoader[Batch], dtype: torch.dtype) -> Iterator[Batch]:
    """Batches on a device. To a GPU they go from pinned memory, so that nobody waits: while it is at a step, the next
    batch is loaded and sent."""
    raw = loader.dataset if isinstance(loader.dataset, Raw) else None

    def sent(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

    for images, labels in loader:
        ready = sent(images) if raw is None else raw.ready(sent(images))
        numbered = ready.dtype == torch.int64  # tokens of a vocabulary stay what they are
        batch = ready if numbered else ready.to(dtype), sent(labels)
        del images, labels, ready  # a step holds only what it is given
        yield batch
