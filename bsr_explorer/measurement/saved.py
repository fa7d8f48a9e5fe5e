"""What autograd really holds for backward: the unique storages of all saved tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from bsr_explorer.ledger import Row
from bsr_explorer.naming import Naming, naming_of


@dataclass
class SavedStorages:
    """The storages seen so far, by identity, with the operation that saved each first.

    A weak reference to each is kept, so that a storage which was freed before the end of forward is not
    counted, and its address cannot be mistaken for that of a later one.
    """

    excluded: set[int]
    naming: Naming
    seen: dict[int, tuple[StorageWeakRef, int, str]] = field(default_factory=dict)
    running: list[str] = field(default_factory=lambda: [LOSS])

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Saved-tensor hook: note the storage, and keep the tensor without its history (of which an
        operation that keeps its own output is a part: they would hold each other for ever)."""
        storage = tensor.untyped_storage()
        identity = storage._cdata
        if identity not in self.excluded and identity not in self.seen:
            self.seen[identity] = (StorageWeakRef(storage), storage.nbytes(), self.running[-1])
        return tensor.detach()

    def rows(self) -> list[Row]:
        """One row a storage that is still alive."""
        return [
            Row(self.naming.block_of(operation), operation, "saved", bytes=size)
            for reference, size, operation in self.seen.values()
            if not reference.expired()
        ]


LOSS = "loss"
"""The operation that saves what no module of the model saves."""


@contextmanager
def saved_storages(model: nn.Module, inputs: Iterable[torch.Tensor]) -> Iterator[SavedStorages]:
    """Watch a forward pass and loss.

    Args:
        model: its parameters and buffers are not counted.
        inputs: the batch (images, labels), not counted either.

    Yields:
        What has been saved; ask for its ``rows()`` before backward.
    """
    own = [*model.parameters(), *model.buffers(), *inputs]
    watch = SavedStorages({tensor.untyped_storage()._cdata for tensor in own}, naming_of(model))

    def enter(name: str) -> Any:
        return lambda module, args: watch.running.append(name)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        watch.running.pop()

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(watch.pack, lambda tensor: tensor):
            yield watch
    finally:
        for handle in handles:
            handle.remove()
