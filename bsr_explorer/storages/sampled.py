"""A storage of some rows, drawn so that a weight's gradient is right on average (WTA-CRS's)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bsr_explorer.devices import Device
from bsr_explorer.storages.base import Factored
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH

if TYPE_CHECKING:
    import torch

    from bsr_explorer.storages.base import Packed

LEAST = 10
"""Rows that are kept at least, as the authors' code has it."""


@dataclass(frozen=True)
class Sampled(Factored):
    """Of all tokens of a batch, k rows (in channels). A row t has the probability p_t, its share of all rows' lengths.

    The c most probable rows are kept as they are; k − c of the others are drawn with replacement, and scaled by
    (1 − P_c)/(p_t·(k − c)), where P_c is the probability of those c. Then gᵀ·x is right on average, whatever g is. c is
    the one for which (1 − P_c)/(k − c) is least, which makes the variance less than that of k drawn rows.

    Attributes:
        ratio: k over the number of tokens.
    """

    ratio: float

    def kept(self, rows: int) -> int:
        """k, of so many rows."""
        return min(rows, max(LEAST, int(self.ratio * rows)))

    def _sizes(self, shape: Shape) -> tuple[int, int]:
        """Rows, and how many are kept."""
        rows = math.prod(shape[:-1])
        return rows, self.kept(rows)

    def bytes(self, shape: Shape, dtype: str) -> int:
        """See ``Packing``: rows and their positions."""
        return self._sizes(shape)[1] * (shape[-1] * WIDTH[dtype] + WIDTH["int32"])

    def pack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``: of each row its probability, the same in order, and its place in that order. (Of more than
        two thirds of all rows, a little more, where many of them are drawn.)"""
        rows, kept = self._sizes(shape)
        return 0 if kept == rows else rows * (2 * WIDTH["fp32"] + WIDTH["int64"])

    def unpack_scratch(self, shape: Shape, dtype: str, device: Device) -> int:
        """See ``Packing``."""
        return 0

    def gradient_flops(self, shape: Shape, out: int) -> int:
        """See ``Factors``."""
        return FLOPS_PER_MAC * self._sizes(shape)[1] * shape[-1] * out

    def gradient_scratch(self, shape: Shape, out: int, dtype: str) -> int:
        """See ``Factors``: the rows of g that belong to those that are kept."""
        return self._sizes(shape)[1] * out * WIDTH[dtype]

    def form(self, x: torch.Tensor) -> Packed:
        """See ``Packing``: rows, and their positions among all rows."""
        import torch

        _, kept = self._sizes(tuple(x.shape))
        return x.new_empty(kept, x.shape[-1]), torch.empty(kept, dtype=torch.int32, device=x.device)

    def pack(self, x: torch.Tensor, running: torch.Tensor | None = None) -> Packed:
        """See ``Packing``."""
        import torch

        (kept, places), rows = self.form(x), x.view(-1, x.shape[-1])
        if len(kept) == len(rows):
            torch.arange(len(rows), out=places)
            kept.copy_(rows)
            return kept, places
        exact, weights = self._draw(rows, places)
        torch.index_select(rows, 0, places, out=kept)
        kept[exact:].mul_(weights.to(x.dtype).unsqueeze(1))
        return kept, places

    def _draw(self, rows: torch.Tensor, places: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Write the positions of rows, those that are kept as they are first; how many these are, and the factors of
        the others."""
        import torch

        kept = len(places)
        lengths = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
        lengths.clamp_min_(torch.finfo(torch.float32).tiny)  # even of zeros something can be drawn
        lengths.div_(lengths.sum())
        probable, order = lengths.sort(descending=True)
        del lengths
        order = order.to(torch.int32)
        rest = probable.flip(0).cumsum(0).flip(0)[:kept]  # 1 − P_c
        rest.div_(torch.arange(kept, 0, -1, dtype=torch.float32, device=rows.device))
        exact = int(rest.argmin())
        each = float(rest[exact])  # of the rows that are drawn, the share that each stands for
        del rest
        drawn = torch.multinomial(probable[exact:], kept - exact, replacement=True)
        places[:exact].copy_(order[:exact])
        places[exact:].copy_(order[exact:].index_select(0, drawn))
        return exact, probable[exact:].index_select(0, drawn).reciprocal_().mul_(each)

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``: rows in their places, where those that were drawn twice add up, and zeros."""
        kept, places = packed
        x = kept.new_zeros(math.prod(shape[:-1]), shape[-1])
        return x.index_add_(0, places, kept).view(shape)

    def weight_gradient(self, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        """See ``Factored``."""
        kept, places = packed
        return rows.index_select(0, places).t().mm(kept)
