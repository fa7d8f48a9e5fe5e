"""Whether an image gives the same output, bit for bit, at every place in a batch.

Most kernels see to that; some do not for few tokens or images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from bsr_explorer.prefix.continued import Continued
from bsr_explorer.train.step import autocast, image_dtype


class Steadiness:
    """Tries the frozen blocks of a model on random numbers, once for each number of images.

    Args:
        shapes: of an image below the blocks and after each, (tokens, channels).
        precision: key of ``models.lowering.PRECISIONS``.
    """

    def __init__(self, model: Continued, shapes: Sequence[tuple[int, ...]], precision: str) -> None:
        self._model, self._shapes, self._precision = model, shapes, precision
        self._device = next(model.parameters()).device
        self._dtype = image_dtype(precision)
        self._tried: dict[int, bool] = {}

    @torch.no_grad()
    def steady(self, images: int) -> bool:
        """Whether each of so many images comes out the same in any order.

        One block of each shape is tried, and the products around an explicit softmax apart, for a block may round
        their differences away.
        """
        if images not in self._tried:
            self._tried[images] = all(self._same(part, images, shape) for shape, part in self._parts())
        return self._tried[images]

    def _parts(self) -> list[tuple[tuple[int, ...], Callable[[Tensor], Tensor]]]:
        vit = cast(Any, self._model.model)
        shapes = [(3, *vit.patch_embed.img_size), *self._shapes]
        parts: dict[Any, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {}
        parts[None] = shapes[0], self._model.stem
        for block, shape, makes in zip(
            vit.blocks[: self._model.blocks], shapes[1:], shapes[2:], strict=False
        ):
            parts[shape, makes] = shape, block
            if not block.attn.fused_attn:
                heads = block.attn.num_heads
                parts[shape] = (3, heads, shape[0], shape[1] // heads), _attended
        return list(parts.values())

    def _same(self, part: Callable[[Tensor], Tensor], images: int, shape: tuple[int, ...]) -> bool:
        random = torch.Generator().manual_seed(0)
        # What a block adds to its input is not to vanish beside it.
        size = 1.0 if part is _attended else 0.02
        x = size * torch.randn(images, *shape, generator=random).to(self._device, self._dtype)
        with autocast(self._precision, self._device):
            made = part(x)
            orders = (torch.randperm(images, generator=random).to(self._device) for _ in range(4))
            return all(torch.equal(part(x[order]), made[order]) for order in orders)


def _attended(qkv: Tensor) -> Tensor:
    """Attention with an explicit softmax, of (B, 3, H, N, d)."""
    q, k, v = qkv.unbind(1)
    attended: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return attended
