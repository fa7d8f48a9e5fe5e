"""A linear layer whose weight is the product of two factors that train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

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
        layer: FactoredLinear,
    ) -> torch.Tensor:
        """``kept``: of x, as the layer's packing says."""
        out = F.linear(F.linear(x, right), left, bias)
        ctx.layer = layer
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
            made = ctx.layer.kept.packing.core_gradient(tuple(packed), rows)
            of_left = made.mm(right.mm(channels).t())
            of_right = left.t().mm(made).mm(channels.t())
            del made
        if ctx.needs_input_grad[0]:
            of_x = rows.mm(left).mm(right).view(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[3]:
            of_bias = rows.sum(0)
        return of_x, of_left, of_right, of_bias, None, None


class _Subspace(_Factored):
    """The same; the backward pass lets L and R of its layer take their step, and makes no gradient of them."""

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x and b; then the step."""
        (gradient,) = gradients
        *packed, left, right = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_x = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = rows.mm(left).mm(right).view(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[3]:
            of_bias = rows.sum(0)
        made = ctx.layer.kept.packing.core_gradient(tuple(packed), rows)
        made = made.float()
        ctx.layer.take_step(made, packed[3].float())
        return of_x, None, None, of_bias, None, None


@torch.no_grad()
def take_step(
    left: torch.Tensor, right: torch.Tensor, made: torch.Tensor, channels: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of subspace iteration on W − η·G, of W = L·R and G = M·U₃ᵀ, of which neither is formed: with
    V = (W − η·G)ᵀ·L, the new L is Q of the QR decomposition of (W − η·G)·V, and the new R is Lᵀ·(W − η·G) of that L.

    Args:
        left, right: L (out, K) and R (K, in).
        made, channels: M (out, K₃) and U₃ (in, K₃).
        rate: η.

    Returns:
        The new L, whose columns are orthonormal, and R.
    """
    square = left.t().mm(left)
    turned = right.t().mm(square)
    del square
    on_channels = made.t().mm(left)
    torch.addmm(turned, channels, on_channels, alpha=-rate, out=turned)
    del on_channels
    square = right.mm(turned)
    moved = left.mm(square)
    del square
    on_channels = channels.t().mm(turned)
    torch.addmm(moved, made, on_channels, alpha=-rate, out=moved)
    del on_channels, turned
    basis: torch.Tensor = torch.linalg.qr(moved).Q
    del moved
    square = basis.t().mm(left)
    new = square.mm(right)
    del square
    on_channels = basis.t().mm(made)
    torch.addmm(new, on_channels, channels.t(), alpha=-rate, out=new)
    return basis, new


class FactoredLinear(nn.Module):
    """Takes the place of a linear layer; the bias keeps its name. L·R is the weight of this rank that is nearest to the
    layer's, divided so that both factors are as large.

    Args:
        rank: K, at most the smaller side of the weight.
        packing: how the input is kept.
    """

    function: ClassVar[type[Function]] = _Factored
    """What autograd records."""
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear, rank: int, packing: Tucker) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
        of_left, of_right = self._divided(values[:rank])
        # Row by row: a gradient of another layout than its parameter's is copied.
        self.left = nn.Parameter((left[:, :rank] * of_left).to(weight.dtype).contiguous())
        self.right = nn.Parameter((of_right.unsqueeze(1) * right[:rank]).to(weight.dtype).contiguous())
        self.register_parameter("bias", layer.bias)
        self.kept = Keeper(packing)
        # What looks on at the layer, such as a token drop at qkv, looks on at this.
        vars(self).update({name: hooks for name, hooks in vars(layer).items() if "hooks" in name})

    def _divided(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What each factor gets of the singular values (K,)."""
        return values.sqrt(), values.sqrt()

    def _records(self, x: torch.Tensor) -> bool:
        """Whether autograd records it."""
        bias = self.bias is not None and self.bias.requires_grad
        return x.requires_grad or self.left.requires_grad or bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        left: torch.Tensor = self.left
        right: torch.Tensor = self.right
        bias: torch.Tensor | None = self.bias
        if not (torch.is_grad_enabled() and self._records(x)):
            return F.linear(F.linear(x, right), left, bias)
        device = x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            bias = None if bias is None else bias.to(dtype)
            right, left, x = right.to(dtype), left.to(dtype), x.to(dtype)
        kept = self.kept.keep(x)
        with torch.autocast(device, enabled=False):
            return cast(torch.Tensor, self.function.apply(x, left, right, bias, kept, self))

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.in_features}, {self.out_features}, rank {self.right.shape[0]}"


class SubspaceLinear(FactoredLinear):
    """The same, whose factors no optimiser knows: each backward pass lets them take a step of subspace iteration, at
    the rate of a group of the optimiser (``train.optimizer.StepsItself``). L begins with orthonormal columns.

    Attributes:
        group: of the optimiser, whose rate and weight decay are the step's.
    """

    function: ClassVar[type[Function]] = _Subspace

    def __init__(self, layer: nn.Linear, rank: int, packing: Tucker) -> None:
        super().__init__(layer, rank, packing)
        self.left.requires_grad_(False)
        self.right.requires_grad_(False)
        self.group: dict[str, Any] = {"lr": 0.0, "weight_decay": 0.0}

    def _divided(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones_like(values), values

    @torch.no_grad()
    def take_step(self, made: torch.Tensor, channels: torch.Tensor) -> None:
        """See ``take_step``; in fp32, whatever the factors' format. W decays first, as in torch's SGD."""
        rate, decay = float(self.group["lr"]), float(self.group["weight_decay"])
        left, right = self.left.float(), self.right.float()
        if decay:
            right.mul_(1 - rate * decay)
        new_left, new_right = take_step(left, right, made, channels, rate)
        self.left.copy_(new_left)
        self.right.copy_(new_right)


def factor(
    model: nn.Module,
    chosen: Mapping[tuple[int, str], tuple[int, Tucker]],
    kind: type[FactoredLinear] = FactoredLinear,
) -> None:
    """Let weights of chosen linear layers become two factors, in place.

    Args:
        chosen: by block (0-based) and layer (a name of ``adding.LAYERS``), K and how the input is kept.
        kind: what takes a layer's place.
    """
    blocks = blocks_of(model)
    for (block, name), (rank, packing) in chosen.items():
        parent, _, child = LAYERS[name].rpartition(".")
        layer = cast(nn.Linear, blocks[block].get_submodule(LAYERS[name]))
        blocks[block].get_submodule(parent).add_module(child, kind(layer, rank, packing))
