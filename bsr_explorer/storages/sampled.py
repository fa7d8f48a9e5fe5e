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
        """See ``Packing``: of each row its probability, the same in order, and its place in that order; or, of the
        larger part of all rows, these, which are drawn, and whether they are, with how many are not, and their
        share."""
        rows, kept = self._sizes(shape)
        if kept == rows:
            return 0
        ordered = rows * (WIDTH["fp32"] + WIDTH["int32"])
        drawn = kept * (1 + WIDTH["int64"] + WIDTH["int32"]) + WIDTH["int64"] + WIDTH["fp32"]
        return max(rows * (2 * WIDTH["fp32"] + WIDTH["int64"]), ordered + drawn)

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
        factors = self._draw(rows, places)
        torch.index_select(rows, 0, places, out=kept)
        kept.mul_(factors.to(x.dtype).unsqueeze(1))
        return kept, places

    def _draw(self, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Write the positions of rows, those that are kept as they are first; the factors of all. (As many are drawn as
        are kept, and some of these passed over: a number of draws that was read would wait for a GPU.)"""
        import torch

        kept = len(places)
        lengths = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
        least = torch.finfo(torch.float32).tiny
        lengths.clamp_min_(least)  # even of zeros something can be drawn
        lengths.div_(lengths.sum()).clamp_min_(least)  # and beside a row that is beyond all measure
        probable, order = lengths.sort(descending=True)
        del lengths
        order = order.to(torch.int32)
        rest = probable.flip(0).cumsum(0).flip(0)[:kept]  # 1 − P_c
        rest.div_(torch.arange(kept, 0, -1, dtype=torch.float32, device=rows.device))
        exact, each = (
            rest.argmin(),
            rest.min(),
        )  # c; of the rows that are drawn, the share that each stands for
        del rest
        sure = torch.arange(kept, dtype=torch.int32, device=rows.device) < exact
        probable[:kept].masked_fill_(sure, 0)
        drawn = torch.multinomial(probable, kept, replacement=True)
        torch.where(sure, order[:kept], order.index_select(0, drawn), out=places)
        factors: torch.Tensor = probable.index_select(0, drawn).reciprocal_().mul_(each)
        return factors.masked_fill_(sure, 1)

    def unpack(self, packed: Packed, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See ``Packing``: rows in their places, where those that were drawn twice add up, and zeros."""
        kept, places = packed
        x = kept.new_zeros(math.prod(shape[:-1]), shape[-1])
        return x.index_add_(0, places, kept).view(shape)

    def weight_gradient(self, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        """See ``Factored``."""
        kept, places = packed
        return rows.index_select(0, places).t().mm(kept)
