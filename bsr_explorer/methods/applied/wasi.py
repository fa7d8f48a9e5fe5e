"""A linear layer whose weight is the product of two factors that train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function

from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.naming import blocks_of
from bsr_explorer.storages import Tucker
from bsr_explorer.storages.keeper import Keeper, Kept


class _Factored(Function):
    """x·(L·R)ᵀ + b of x (B, N, in), L (out, K) and R (K, in). Keeps what is kept of x, and L and R."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
        bias: torch.Tensor | None,
        kept: Kept,
        packing: Tucker,
    ) -> torch.Tensor:
        """``kept``: of x, as the packing says."""
        out = F.linear(F.linear(x, right), left, bias)
        ctx.packing = packing
        ctx.save_for_backward(*kept.tensors, left, right)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x, L, R and b. That of L·R is M·U₃ᵀ, which is never formed."""
        (gradient,) = gradients
        *packed, left, right = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_x = of_left = of_right = of_bias = None
        if ctx.needs_input_grad[1]:
            channels = packed[3]
            made = ctx.packing.core_gradient(tuple(packed), rows)
            of_left = made.mm(right.mm(channels).t())
            of_right = left.t().mm(made).mm(channels.t())
            del made
        if ctx.needs_input_grad[0]:
            of_x = rows.mm(left).mm(right).view(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[3]:
            of_bias = rows.sum(0)
        return of_x, of_left, of_right, of_bias, None, None


class FactoredLinear(nn.Module):
    """Takes the place of a linear layer; the bias keeps its name. L·R is the weight of this rank that is nearest to the
    layer's, divided so that both factors are as large.

    Args:
        rank: K, at most the smaller side of the weight.
        packing: how the input is kept.
    """

    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear, rank: int, packing: Tucker) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
        roots = values[:rank].sqrt()
        # Row by row: a gradient of another layout than its parameter's is copied.
        self.left = nn.Parameter((left[:, :rank] * roots).to(weight.dtype).contiguous())
        self.right = nn.Parameter((roots.unsqueeze(1) * right[:rank]).to(weight.dtype).contiguous())
        self.register_parameter("bias", layer.bias)
        self.kept = Keeper(packing)
        # What looks on at the layer, such as a token drop at qkv, looks on at this.
        vars(self).update({name: hooks for name, hooks in vars(layer).items() if "hooks" in name})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        left: torch.Tensor = self.left
        right: torch.Tensor = self.right
        bias: torch.Tensor | None = self.bias
        if not (torch.is_grad_enabled() and (x.requires_grad or left.requires_grad)):
            return F.linear(F.linear(x, right), left, bias)
        device = x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            bias = None if bias is None else bias.to(dtype)
            right, left, x = right.to(dtype), left.to(dtype), x.to(dtype)
        kept = self.kept.keep(x)
        with torch.autocast(device, enabled=False):
            out: torch.Tensor = _Factored.apply(x, left, right, bias, kept, self.kept.packing)
        return out

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.in_features}, {self.out_features}, rank {self.right.shape[0]}"


def factor(
    model: nn.Module, layers: tuple[str, ...], rank: Callable[[nn.Linear], int | None], packing: Tucker
) -> None:
    """Let weights of chosen linear layers of all blocks become two factors, in place.

    Args:
        layers: names of ``adding.LAYERS``.
        rank: of a layer; None: it stays as it is.
    """
    for block in blocks_of(model):
        for name in layers:
            parent, _, child = LAYERS[name].rpartition(".")
            layer = cast(nn.Linear, block.get_submodule(LAYERS[name]))
            if (of_layer := rank(layer)) is not None:
                block.get_submodule(parent).add_module(child, FactoredLinear(layer, of_layer, packing))
