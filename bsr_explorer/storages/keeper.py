"""Keepers: one for each packed tensor of an operation, with its state from step to step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from bsr_explorer.storages.base import Factored, Packing
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
    whatever the model's number format, and is left alone in evaluation.
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
        if _thrown_away.get():
            packed = packing.form(x)
        else:
            running = self.running
            if running is not None and not self.training:
                running = running.clone()
            packed = packing.pack(x, running)
        product = None
        if isinstance(packing, Factored):
            product = partial(_weight_gradient, packing)
        restore = partial(_restore, packing, shape, dtype)
        return Kept(packed, restore, product, packing.derivative, packing.itself)

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
