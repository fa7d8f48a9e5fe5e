"""A linear layer of whose weight some columns or rows train."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function

from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.naming import blocks_of


class _Partial(Function):
    """x·Wᵀ + b of x (…, in). Of columns, keeps the channels that they read; of rows, x; and W if x needs a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        own: torch.Tensor,
        index: torch.Tensor,
        columns: bool,
    ) -> torch.Tensor:
        """``own``: the columns (out, r) or rows (r, in), which are in the weight already."""
        out = F.linear(x, weight, bias)
        ctx.columns, ctx.index = columns, index
        read = x.index_select(x.dim() - 1, index) if columns else x
        ctx.save_for_backward(read, weight if ctx.needs_input_grad[0] else None)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x and of the columns or rows."""
        (gradient,) = gradients
        read, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        outputs = rows if ctx.columns else rows.index_select(1, ctx.index)
        of_own = outputs.t().mm(read.view(-1, read.shape[-1]))
        del outputs
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = rows.mm(weight).view(*gradient.shape[:-1], -1)
        return of_x, None, None, of_own, None, None


class PartialLinear(nn.Module):
    """Takes the place of a linear layer; weight and bias keep their names.

    Args:
        part: ``columns`` or ``rows``, and the name of the parameter that holds them.
        r: how many, drawn from torch's global generator.
    """

    index: torch.Tensor
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear, part: str, r: int) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.part = layer.weight, part
        self.register_parameter("bias", layer.bias)
        self.dim = 1 if part == "columns" else 0
        drawn = torch.randperm(layer.weight.shape[self.dim], device=layer.weight.device)[:r]
        self.register_buffer("index", drawn.sort().values)
        with torch.no_grad():
            own = layer.weight.index_select(self.dim, self.index)
        self.register_parameter(part, nn.Parameter(own))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        own: torch.Tensor = self.get_parameter(self.part)
        # Past autograd, which holds the weight perhaps: within a step, these are the values that it has.
        self.weight.data.index_copy_(self.dim, self.index, own.data)
        if not (torch.is_grad_enabled() and (x.requires_grad or own.requires_grad)):
            return F.linear(x, self.weight, self.bias)
        device = x.device.type
        weight: torch.Tensor = self.weight
        bias: torch.Tensor | None = self.bias
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            own, bias = own.to(dtype), None if bias is None else bias.to(dtype)
            weight, x = weight.to(dtype), x.to(dtype)
        with torch.autocast(device, enabled=False):
            out: torch.Tensor = _Partial.apply(x, weight, bias, own, self.index, self.dim == 1)
        return out

    def extra_repr(self) -> str:
        """Sizes, and what trains."""
        return f"{self.in_features}, {self.out_features}, {len(self.index)} {self.part}"


def train_part_of(model: nn.Module, layers: tuple[str, ...], r: int, part: str) -> None:
    """Let ``r`` columns or rows of chosen linear layers of all blocks be parameters of their own, in place."""
    for block in blocks_of(model):
        for name in layers:
            parent, _, child = LAYERS[name].rpartition(".")
            layer: Any = block.get_submodule(LAYERS[name])
            block.get_submodule(parent).add_module(child, PartialLinear(layer, part, r))
