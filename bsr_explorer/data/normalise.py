"""Normalisation of a batch of pixels, on the device that they lie on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Normalise:
    """Pixels in uint8, (…, 3, S, S), as float32 in 0 to 1, less the mean, over the standard deviation of each channel.

    To the last bit what torchvision's ``v2.ToDtype(torch.float32, scale=True)`` and ``v2.Normalize`` make; but those
    send the channels' numbers to a GPU in a way that waits for all that was launched.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """``mean``, ``std``: of the 3 channels, for pixel values in 0 to 1."""
        self._numbers = torch.tensor([list(mean), list(std)], dtype=torch.float32).view(2, -1, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """A new tensor, on their device."""
        if pixels.is_cuda and not self._numbers.is_pinned():
            self._numbers = self._numbers.pin_memory()
        mean, std = self._numbers.to(pixels.device, non_blocking=True)
        return pixels.to(torch.float32).mul_(1 / 255).sub_(mean).div_(std)
