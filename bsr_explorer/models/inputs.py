"""What models are given in a training step, and what they are to say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bsr_explorer.errors import UserError
from bsr_explorer.quality import ACCURACY, PERPLEXITY, PIXEL_ACCURACY, Quality

if TYPE_CHECKING:
    from torch import Generator, Tensor, dtype, nn


@dataclass(frozen=True)
class Inputs:
    """A kind of input.

    Attributes:
        name: of a batch, in ledgers.
        one: of a batch, in words.
        unit: of their size, in words.
        shape, labels: of a batch of so many of a size, and of its labels.
        quality: what a model of them is judged by.
        numbered: whether they are numbers of a vocabulary, int64; otherwise they have the number format of the step.
    """

    name: str
    one: str
    unit: str
    shape: Callable[[int, int], tuple[int, ...]]
    labels: Callable[[int, int], tuple[int, ...]]
    quality: Quality = ACCURACY
    numbered: bool = False

    def empty(self, batch: int, size: int, numbers: dtype) -> dict[str, Tensor]:
        """A batch and its labels, whose values do not matter, by name."""
        import torch

        wanted = torch.int64 if self.numbered else numbers
        return {
            self.name: torch.empty(self.shape(batch, size), dtype=wanted),
            "labels": torch.empty(self.labels(batch, size), dtype=torch.int64),
        }

    def drawn(self, batch: int, size: int, classes: int, random: Generator) -> tuple[Tensor, Tensor]:
        """A batch of random values and labels.

        Args:
            classes: outputs of the model: what labels, and numbers of a vocabulary, are below.
        """
        import torch

        shape = self.shape(batch, size)
        given = (
            torch.randint(classes, shape, generator=random)
            if self.numbered
            else torch.randn(shape, generator=random)
        )
        return given, torch.randint(classes, self.labels(batch, size), generator=random)


def _square(batch: int, size: int) -> tuple[int, ...]:
    return batch, 3, size, size


def _one(batch: int, size: int) -> tuple[int, ...]:
    return (batch,)


def _plane(batch: int, size: int) -> tuple[int, ...]:
    return batch, size, size


def _sequence(batch: int, size: int) -> tuple[int, ...]:
    return batch, size


IMAGES = Inputs("images", "an image", "px", _square, _one)
"""(B, 3, S, S), of which each has one label."""

PIXELS = replace(IMAGES, labels=_plane, quality=PIXEL_ACCURACY)
"""The same, of which each pixel has one: (B, S, S)."""

TOKENS = Inputs("tokens", "a sequence", "tokens", _sequence, _sequence, PERPLEXITY, numbered=True)
"""(B, T), of which each has a label: the next one."""

LABELS = ("images", "pixels")
"""What has a label: a model of images says so by an attribute ``labels``; without it, images have."""


def inputs_of(model: nn.Module, takes: Inputs) -> Inputs:
    """What a built model is given: as its architecture says, with labels of what the model says.

    Raises:
        UserError: the model says something else.
    """
    of = getattr(model, "labels", LABELS[0])
    if of not in LABELS:
        raise UserError(f"--model: labels: {of!r} have none; choose {' or '.join(LABELS)}")
    return PIXELS if of == "pixels" else takes
