"""Callbacks for the progress of a fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from bsr_explorer.data.splits import Splits
from bsr_explorer.data.text import Texts

Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, loss)."""


class Watch(Protocol):
    """Is called with the progress of a fine-tune."""

    def peak(self, measured: int, predicted: int) -> None:
        """What a steady step held, and what was predicted for it, in bytes. Told once, and when training goes on."""

    def epoch(self, number: int, epochs: int, loss: float, score: float) -> None:
        """After an epoch (from 1) that was evaluated: its mean loss, and the score in [0, 1] on the part of the data
        that the protocol judges by."""

    def trained(self, model: nn.Module, splits: Splits | Texts) -> None:
        """The model at its end, where it came to it, and the data."""


class Nobody:
    """Does nothing with what it is told."""

    def peak(self, measured: int, predicted: int) -> None:
        """See ``Watch``."""

    def epoch(self, number: int, epochs: int, loss: float, score: float) -> None:
        """See ``Watch``."""

    def trained(self, model: nn.Module, splits: Splits | Texts) -> None:
        """See ``Watch``."""


NOBODY = Nobody()
