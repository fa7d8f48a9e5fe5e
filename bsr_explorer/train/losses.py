"""Losses that are read later than they are found.

To read a number of a GPU's, a process waits for all that it has launched; a step that reads its loss is therefore over
before the next one can be launched. A loss that is only copied, to memory of the host, can be read with others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

KEPT = 64
"""Steps after which a loss is overwritten."""


def mean_of(parts: list[tuple[float, float]]) -> float:
    """The mean loss of micro-batches, (loss, share of the images) each; the first that is not finite, if one is not."""
    total = 0.0
    for loss, share in parts:
        if not math.isfinite(loss):
            return loss
        total += loss * share
    return total


@dataclass
class Later:
    """The mean loss of a step, which ``float`` reads.

    Attributes:
        row: losses of micro-batches, (at most so many as a step has,), in the host's memory.
        shares: of the images.
    """

    row: torch.Tensor
    device: torch.device
    shares: list[float] = field(default_factory=list)

    def note(self, loss: torch.Tensor, share: float) -> None:
        """Send the loss of the next micro-batch on its way."""
        self.row[len(self.shares)].copy_(loss.detach(), non_blocking=True)
        self.shares.append(share)

    def __float__(self) -> float:
        """Wait until it is there."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return mean_of(list(zip(self.row.tolist(), self.shares, strict=False)))


class Losses:
    """Room for the losses of the last ``KEPT`` steps. It is taken once, so that no step takes any."""

    def __init__(self, micro_batches: int, dtype: torch.dtype, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._rows = torch.empty(KEPT, micro_batches, dtype=dtype, pin_memory=pinned)
        self._device, self._count = device, 0

    def next(self) -> Later:
        """That of the next step."""
        row = self._rows[self._count % KEPT]
        self._count += 1
        return Later(row, self._device)
