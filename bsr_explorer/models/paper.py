"""Models on paper: what they are made of is known, and their values are neither kept nor drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def on_paper() -> Iterator[None]:
    """What is built within takes no memory (its tensors are on torch's device ``meta``), and hardly any time."""
    with torch.device("meta"), _Unfilled(lambda filled: filled.is_meta):
        yield


@contextmanager
def unfilled() -> Iterator[None]:
    """What is built within has its parameters as memory gives them, and buffers as they are to be."""
    with _Unfilled(lambda filled: isinstance(filled, nn.Parameter)):
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves out what only gives values to some tensors: it is most of the time that building takes.

    Args:
        left: which tensors.
    """

    def __init__(self, left: Callable[[torch.Tensor], bool]) -> None:
        super().__init__()
        self._left = left

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = MappingProxyType({}),
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        if (
            getattr(func, "__name__", "") in _FILLING
            and isinstance(filled, torch.Tensor)
            and self._left(filled)
        ):
            return filled
        return func(*args, **kwargs)


_FILLING = {
    *("uniform_", "normal_", "trunc_normal_", "constant_", "zeros_", "ones_", "zero_", "fill_"),
    *("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "orthogonal_"),
    *("mul_", "add_", "clamp_", "erfinv_"),
}
"""Functions that change the values of a tensor in place and nothing else of it, as initialisers use them."""
