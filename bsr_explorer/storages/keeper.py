"""Keepers: one for each packed tensor of an operation, with its state from step to step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from bsr_explorer.storages.base import Factored, Packing
from bsr_explorer.storages.packing import forget
from bsr_explorer.storages.storage import Shape

_thrown_away: ContextVar[bool] = ContextVar("thrown_away", default=False)


@contextmanager
def thrown_away() -> Iterator[None]:
    """Within it, what is packed is never unpacked (the first run of what is recomputed): only its form is made."""
    token = _thrown_away.set(True)
    try:
        yield
    finally:
        _thrown_away.reset(token)


def to_run_again() -> bool:
    """Whether what runs now is the first run of what is recomputed."""
    return _thrown_away.get()


@dataclass(frozen=True)
class Kept:
    """What is kept of a tensor, and the way back.

    Attributes:
        tensors: to be saved for backward.
        restore: a new tensor, of those.
        weight_gradient: of those and of the gradient (rows, out) of a linear layer's output, that of its weight; None:
            it is made of what is restored.
        derivative: whether what is restored is an activation's derivative.
        itself: whether what is restored is no new tensor, and must not be changed.
    """

    tensors: tuple[torch.Tensor, ...]
    restore: Callable[[Sequence[torch.Tensor]], torch.Tensor]
    weight_gradient: Callable[[Sequence[torch.Tensor], torch.Tensor], torch.Tensor] | None = None
    derivative: bool = False
    itself: bool = False


class Keeper(nn.Module):
    """Packs a tensor of a layer as a packing says.

    What the packing remembers (running ranges) is a buffer, and so is saved with a checkpoint. It stays in fp32
    whatever the model's number format, and is left alone in evaluation. Where its form follows from the tensor's, it
    has that of the first one; a tensor of another shape (the last batch of an epoch may have fewer images) is packed as
    if nothing had been seen.
    """

    running: torch.Tensor | None

    def __init__(self, packing: Packing) -> None:
        super().__init__()
        self.packing = packing
        unseen = torch.full(packing.remembers, torch.nan) if packing.remembers else None
        self.register_buffer("running", unseen)

    @torch.no_grad()
    def keep(self, x: torch.Tensor) -> Kept:
        """Pack a tensor, (B, …)."""
        x = x.detach().contiguous()
        shape, dtype, packing = tuple(x.shape), x.dtype, self.packing
        packed = packing.form(x) if _thrown_away.get() else packing.pack(x, self._remembered(shape))
        product = None
        if isinstance(packing, Factored):
            product = partial(_weight_gradient, packing)
        restore = partial(_restore, packing, shape, dtype)
        return Kept(packed, restore, product, packing.derivative, packing.itself)

    def _remembered(self, shape: Shape) -> torch.Tensor | None:
        """What is known from earlier steps, for a tensor of this shape."""
        running, form = self.running, self.packing.remembers_of(shape)
        if running is None:
            return None
        if self.training and not running.numel():
            running.resize_(form).fill_(torch.nan)
            forget(running)
        if running.shape != form:
            return None
        return running if self.training else running.clone()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *how: Any) -> None:
        kept = state_dict.get(f"{prefix}running")
        if kept is not None and self.running is not None and not self.running.numel():
            self.running.resize_(kept.shape)  # it has no form before a first step
        super()._load_from_state_dict(state_dict, prefix, *how)
        if self.running is not None:
            forget(self.running)

    def _apply(self, fn: Callable[..., torch.Tensor], recurse: bool = True) -> Keeper:
        super()._apply(fn, recurse)
        if self.running is not None:
            self.running = self.running.float()
        return self

    def extra_repr(self) -> str:
        """Which packing."""
        return str(self.packing)


def _restore(
    packing: Packing, shape: Shape, dtype: torch.dtype, tensors: Sequence[torch.Tensor]
) -> torch.Tensor:
    return packing.unpack(tuple(tensors), shape, dtype)


def _weight_gradient(packing: Factored, tensors: Sequence[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    return packing.weight_gradient(tuple(tensors), rows)


def attach(x: torch.Tensor, kept: Kept) -> None:
    """Let the one who keeps this tensor next share what is kept to compute it again."""
    x.kept = kept  # type: ignore[attr-defined]


def take_attached(x: torch.Tensor) -> Kept | None:
    """What was attached to a tensor, which is let go, so that it does not live as long as the tensor."""
    kept: Kept | None = x.__dict__.pop("kept", None)
    return kept
