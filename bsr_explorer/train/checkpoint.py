"""Checkpoints of a training. One that is incomplete, or of another training, is not used."""

from __future__ import annotations

import logging
import math
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bsr_explorer.files import whole

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Where training is kept, and which.

    Attributes:
        path: of the file.
        of: says everything that the training follows from; a file of any other is ignored.
        every: seconds after which it is written within an epoch too.
    """

    path: Path
    of: str
    every: float = math.inf

    def save(self, state: dict[str, Any]) -> None:
        """Write tensors and plain values, whole or not at all. Where they cannot be written, training goes on
        without them."""
        try:
            with whole(self.path) as file:
                torch.save({"of": self.of, "state": state}, file)
        except (OSError, RuntimeError) as error:  # torch's own, where the disk is full
            LOG.warning("%s: no checkpoint could be written (%s)", self.path, _line(error))

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None: then training starts anew."""
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as parts:
                broken = parts.testzip()  # torch itself checks no sums
            if broken:
                raise ValueError(f"{broken} is damaged")
            saved = torch.load(self.path, weights_only=True)
            if saved["of"] == self.of:
                return dict(saved["state"])
            why = "it is of another training"
        except _UNREADABLE as error:
            why = f"it cannot be read: {_line(error)}"
        LOG.warning("%s: this checkpoint is ignored, and training starts anew (%s)", self.path, why)
        return None


_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
