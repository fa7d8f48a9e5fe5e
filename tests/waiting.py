"""Finds what of a training step would make a process wait for a GPU, on a CPU: operations whose results it reads."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {
    *("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"),
    *("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"),
}
"""Operations that read a number, or whose result has a size that the host must know."""

MAKE = (torch.tensor, torch.as_tensor)
"""Functions that copy to a device that is given as another tensor's. (``"cpu"`` says the host's memory.)"""

COPY = (torch.from_numpy, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist)
"""Functions that copy between a GPU and the host's memory, which is not pinned."""


class _Operations(TorchDispatchMode):
    def __init__(self, on_the_host: Collection[int], found: Counter[str]) -> None:
        super().__init__()
        self.on_the_host, self.found = on_the_host, found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        masks = name.startswith("aten::index") and len(args) > 1 and isinstance(args[1], (list, tuple))
        if masks and any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]):
            self.found[f"{name} by a mask at {_where()}"] += 1
        if name in READS and args[0].data_ptr() not in self.on_the_host:
            self.found[f"{name} at {_where()}"] += 1
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func in MAKE and isinstance((kwargs or {}).get("device"), torch.device)
        if made or func in COPY:
            self.found[f"{func.__name__} at {_where()}"] += 1
        return func(*args, **(kwargs or {}))


class Waits:
    """Within it, what would wait is counted, by operation and place.

    Args:
        on_the_host: tensors that lie in the host's memory on a GPU, too.
    """

    def __init__(self, on_the_host: Collection[torch.Tensor] = ()) -> None:
        self.found: Counter[str] = Counter()
        self._modes = (
            _Operations({tensor.data_ptr() for tensor in on_the_host}, self.found),
            _Functions(self.found),
        )

    def __enter__(self) -> Counter[str]:
        for mode in self._modes:
            mode.__enter__()
        return self.found

    def __exit__(self, *why: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*why)


def _where() -> str:
    """The innermost file of ours, of torch's optimisers or of its scaler, as ``folder/file.py``."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "bsr_explorer" in path.parts or path.parent.name in ("amp", "optim"):
            return f"{path.parent.name}/{path.name}"
    return "elsewhere"
