"""Linear layers of several experts, each for rows of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor


class Grouped(nn.Module):
    """As many linear layers as there are experts.

    Attributes:
        weight, bias: (experts, in, out) and (experts, out). (Not as ``nn.Linear`` has them: the gradient of a weight
            that goes into a product transposed is copied.)
    """

    def __init__(self, experts: int, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width, out))
        self.bias = nn.Parameter(torch.zeros(experts, out))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, rows: Tensor, ends: Tensor | None) -> Tensor:
        """Rows (R, in) → (R, out).

        Args:
            rows: sorted by their expert.
            ends: where those of each expert end, (experts,); None: all have as many.
        """
        if ends is None:
            each = rows.view(len(self.weight), -1, rows.shape[-1])
            return torch.baddbmm(self.bias[:, None], each, self.weight).flatten(0, 1)
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.is_autocast_enabled(rows.device.type):  # which does not look into functions of our own
            dtype = torch.get_autocast_dtype(rows.device.type)
            rows, weight, bias = rows.to(dtype), weight.to(dtype), bias.to(dtype)
        out: Tensor = Jagged.apply(rows, weight, bias, ends)
        return out


class Jagged(torch.autograd.Function):
    """Each expert's product with its own rows. What it keeps (rows, where the weights train, and weights, where the
    rows need a gradient), computes and allocates does not depend on how many rows go to which expert: all products
    write into parts of one tensor."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, ends: Tensor) -> Tensor:
        of_rows, of_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(rows if of_weight else None, weight if of_rows else None, ends)
        out = rows.new_empty(len(rows), weight.shape[2])
        for expert, here in enumerate(_parts(ends, len(rows))):
            torch.addmm(bias[expert], rows[here], weight[expert], out=out[here])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        rows, weight, ends = ctx.saved_tensors
        (gradient,) = gradients
        wanted = ctx.needs_input_grad
        parts = list(_parts(ends, len(gradient)))
        to_rows = to_weight = to_bias = None
        if wanted[0]:
            to_rows = gradient.new_empty(len(gradient), weight.shape[1])
            for expert, here in enumerate(parts):
                torch.mm(gradient[here], weight[expert].t(), out=to_rows[here])
        if wanted[1]:
            to_weight = gradient.new_empty(len(ends), rows.shape[1], gradient.shape[1])
            for expert, here in enumerate(parts):
                torch.mm(rows[here].t(), gradient[here], out=to_weight[expert])
        if wanted[2]:
            to_bias = gradient.new_empty(len(ends), gradient.shape[1])
            for expert, here in enumerate(parts):
                torch.sum(gradient[here], 0, out=to_bias[expert])
        return to_rows, to_weight, to_bias, None


def _parts(ends: Tensor, rows: int) -> Iterator[slice]:
    """The rows of each expert. (Under a trace numbers are not known: as if all had as many.)"""
    experts = len(ends)
    known = isinstance(ends, FakeTensor)
    places = [rows * (expert + 1) // experts for expert in range(experts)] if known else ends.tolist()
    start = 0
    for end in places:
        yield slice(start, end)
        start = end
