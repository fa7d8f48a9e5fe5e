"""The most memory alive at once: live storages on the CPU, the allocator's own count on CUDA."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveStorages(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off when they are freed.

    torch has no memory statistics on the CPU. What a kernel allocates and frees inside is not seen.
    """

    def __init__(self, standing: Iterable[torch.Tensor]) -> None:
        """``standing``: tensors that exist already (parameters, optimiser state, the batch)."""
        super().__init__()
        self._alive: dict[int, weakref.ref[Any]] = {}
        self.bytes = 0
        self.peak_bytes = 0
        for tensor in standing:
            self._add(tensor)

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        identity = storage._cdata
        if identity in self._alive:
            return
        size = storage.nbytes()

        def freed(_: Any) -> None:
            self.bytes -= size
            del self._alive[identity]

        self._alive[identity] = weakref.ref(storage, freed)
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._add(value)
        return result
