"""What autocast casts within a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bsr_explorer.models.traced.calls import Call, quiet
from bsr_explorer.models.traced.making import FAKE, empty, results_of


def casts(call: Call, autocast: torch.dtype, device: str) -> tuple[int, ...]:
    """Numbers of the arguments of a call that autocast casts to its own format, as they are."""
    with quiet(), FAKE:
        tensors = [empty(each.spec, device) for each in call.given]
        with torch.autocast(device, autocast), torch.no_grad(), _Casts(tensors, autocast) as seen:
            results = results_of(call, tensors)
    made = {id(result) for result in results}
    return tuple(number for number, copy in sorted(seen.found.items()) if id(copy) not in made)


class _Casts(TorchDispatchMode):
    """Sees which of some tensors are cast to a number format.

    Attributes:
        found: by number, the copy.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], to: torch.dtype) -> None:
        super().__init__()
        self._numbers = {id(tensor): number for number, tensor in enumerate(tensors)}
        self._to = to
        self.found: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and result.dtype == self._to
        if cast and (number := self._numbers.get(id(args[0]))) is not None:
            self.found[number] = result
        return result
