"""A block whose saved tensors go elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import SEEK_END
from tempfile import TemporaryFile
from typing import IO, Any, cast

import torch
from torch import nn

from bsr_explorer.naming import blocks_of


class Elsewhere:
    """Hooks on saved tensors: all but weights go from a device to the host, or from the host to a file.

    A file serves one forward pass of one block, and is gone when the last of its tensors is.

    Args:
        model: whose weights stay; a block may use some that stand elsewhere in it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._file: IO[bytes] | None = None

    def pack(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Take a tensor away; returns what brings it back."""
        if tensor.untyped_storage().data_ptr() in self._weights:
            return partial(_itself, tensor.detach())
        if tensor.device.type != "cpu":
            return partial(_to_host(tensor.detach()).to, tensor.device, non_blocking=True)
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115  (it lives as long as its tensors)
        place = self._file.seek(0, SEEK_END)
        _bytes_of(tensor.detach().contiguous()).tofile(self._file)
        return partial(_read, self._file, place, tensor.shape, tensor.dtype)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that is on its way: what is launched after it finds it there. In pinned memory, or the copy would wait."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _bytes_of(tensor: torch.Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _read(file: IO[bytes], place: int, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    file.seek(place)
    cast(Any, file).readinto(memoryview(_bytes_of(tensor)))
    return tensor


def offload_block(model: nn.Module, block: int) -> None:
    """Let what a block (0-based) saves for backward go elsewhere, in place."""
    module = cast(Any, blocks_of(model)[block])
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(Elsewhere(model).pack, lambda back: back()):
            return inner(*args, **kwargs)

    module.forward = forward
