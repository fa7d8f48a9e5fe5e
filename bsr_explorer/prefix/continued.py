"""A model that takes images, or the outputs of its first blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from bsr_explorer.models.architecture import architecture_of_model
from bsr_explorer.models.tasks import tasks_of
from bsr_explorer.naming import blocks_of


@dataclass(frozen=True)
class Stage:
    """What stands below the blocks, or a block, as the tape says it.

    Attributes:
        does: equal where the same is done to the same with the same weights.
        shape: of what it makes of an image, (tokens, channels).
        frozen: whether nothing trains in it, and nothing but its output goes on to what stands above it.
    """

    does: str
    shape: tuple[int, ...]
    frozen: bool


class Continued(nn.Module):
    """A model that takes images, or the outputs of its first blocks.

    Attributes:
        model: of an architecture that ``continues``.
        blocks: how many blocks are behind what is no image.
        tasks: see ``models.tasks``.
    """

    def __init__(self, model: nn.Module, blocks: int) -> None:
        super().__init__()
        self.model, self.blocks = model, blocks
        self._architecture = architecture_of_model(model)
        self.tasks = tasks_of(model)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) or tokens (B, N, D) → (B, classes)."""
        if x.dim() == 4:
            return cast(Tensor, self.model(x))
        for block in blocks_of(self.model)[self.blocks :]:
            x = block(x)
        return self._architecture.tail(self.model, x)

    def stem(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) → (B, N, D), what stands below the blocks."""
        return self._architecture.stem(self.model, images)

    def prefix(self, x: Tensor, done: int | None = None) -> Tensor:
        """Images (B, 3, S, S), or tokens (B, N, D) that some blocks are done with → (B, N, D)."""
        x = self.stem(x) if done is None else x
        for block in blocks_of(self.model)[done or 0 : self.blocks]:
            x = block(x)
        return x

    def after(self, blocks: int) -> nn.Module:
        """What comes after so many blocks: the next one, or what follows the last."""
        return [*blocks_of(self.model), self._architecture.after_blocks(self.model)][blocks]
