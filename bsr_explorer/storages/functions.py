"""The operations of a transformer block as autograd functions that keep tensors packed.

Forward is the operation itself, bit for bit. Backward is autograd's own formula, with what was unpacked in the
place of what would have been kept; with a packing that loses nothing, it gives autograd's own gradients.
Everything packed goes through ``ctx.save_for_backward``, where any observer sees it. A tensor is unpacked as
late as possible, and let go before the next is needed; where an operation's gradient has the form of what was
unpacked, it takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.autograd import Function

from bsr_explorer.storages.keeper import Keeper, Kept, attach

aten: Any = torch.ops.aten


def save_for_backward(ctx: Any, kept: Sequence[Kept | None], *tensors: torch.Tensor | None) -> None:
    """Save what is kept and other tensors for backward."""
    ctx.ways = [(len(k.tensors), k.restore) if k else None for k in kept]
    ctx.save_for_backward(*(t for k in kept if k for t in k.tensors), *tensors)


def saved_for_backward(ctx: Any) -> tuple[list[Callable[[], torch.Tensor] | None], list[Any]]:
    """What ``save_for_backward`` saved: for each tensor kept the way to restore it, and the other tensors."""
    tensors: list[Any] = list(ctx.saved_tensors)
    ways: list[Callable[[], torch.Tensor] | None] = []
    for way in ctx.ways:
        if way is None:
            ways.append(None)
            continue
        count, restore = way
        ways.append(partial(restore, tensors[:count]))
        tensors = tensors[count:]
    return ways, tensors


class Linear(Function):
    """x·Wᵀ + b of x (B, N, in). Keeps x if W trains, and W."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kept: Kept | None
    ) -> torch.Tensor:
        """``kept``: of x, if the weight trains."""
        ctx.direct = kept is not None and kept.weight_gradient is not None
        if kept is not None and kept.weight_gradient is not None:
            kept = Kept(
                kept.tensors, cast(Any, kept.weight_gradient)
            )  # which is given the gradient's rows, too
        save_for_backward(ctx, [kept], weight if ctx.needs_input_grad[0] else None)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x, W and b."""
        (gradient,) = gradients
        (restore,), (weight,) = saved_for_backward(ctx)
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[1] and ctx.direct:
            of_weight = cast(Any, restore)(rows)
        elif ctx.needs_input_grad[1]:
            assert restore is not None
            x = restore()
            of_weight = rows.t().mm(x.view(-1, x.shape[-1]))
            del x
        if ctx.needs_input_grad[0]:
            of_x = rows.mm(weight).view(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias, None


class LayerNorm(Function):
    """LayerNorm over the last dimension. Keeps its input, and mean and inverse deviation as they are; or, instead of
    input and mean, the input as it is normalised, every token of which is as large as the others."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        keeper: Keeper,
        normalized: bool,
        output: bool,
    ) -> torch.Tensor:
        """Normalise, scale and shift.

        Args:
            keeper: of x, or of x ``normalized``.
            output: whether what is kept of the latter shall also serve to compute the output again.
        """
        kept = None if normalized else keeper.keep(x)
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
        if kept is None:
            kept = keeper.keep(x.sub(mean).mul_(rstd).to(x.dtype))
            save_for_backward(ctx, [kept], None, rstd, weight, bias)
            if output:
                attach(normed, _affine_again(kept, weight, bias))
        else:
            save_for_backward(ctx, [kept], mean, rstd, weight, bias)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x, weight and bias."""
        gradient = gradients[0].contiguous()
        (restore,), (mean, rstd, weight, bias) = saved_for_backward(ctx)
        assert restore is not None
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        shape, backward = gradient.shape[-1:], aten.native_layer_norm_backward
        if (
            mean is None
        ):  # of what has mean 0 and deviation 1, and then of x, which is as many deviations wide
            x, zeros, ones = restore(), torch.zeros_like(rstd), torch.ones_like(rstd)
            found = backward(gradient, x, shape, zeros, ones, weight, bias, wanted)
            if wanted[0]:
                found[0].mul_(rstd)
        else:
            found = backward(gradient, restore(), shape, mean, rstd, weight, bias, wanted)
        grads = (g if want else None for g, want in zip(found, wanted, strict=True))
        return *grads, None, None, None, None


def _affine_again(kept: Kept, weight: torch.Tensor | None, bias: torch.Tensor | None) -> Kept:
    """What is kept of a norm's output: what is kept of its normalised input, and weight and bias. (The way back holds
    no tensor itself: it lives as long as the graph does.)"""
    count, restore_input, itself = len(kept.tensors), kept.restore, kept.itself
    affine = weight is not None, bias is not None
    parameters = [p.detach() for p in (weight, bias) if p is not None]

    def restore(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        x, rest = restore_input(tensors[:count]), list(tensors[count:])
        if affine[0]:
            x = x.mul(rest.pop(0)) if itself else x.mul_(rest.pop(0))
        elif itself:
            x = x.clone()
        return x.add_(rest.pop(0)) if affine[1] else x

    return Kept((*kept.tensors, *parameters), restore)


class Gelu(Function):
    """GELU. Keeps its input, or its derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, approximate: str, kept: Kept, output: bool) -> torch.Tensor:
        """``output``: whether what is kept shall also serve to compute the output again."""
        activated = F.gelu(x, approximate=approximate)
        save_for_backward(ctx, [kept])
        ctx.approximate, ctx.derivative = approximate, kept.derivative
        if output:
            restore_input = kept.restore

            def restore(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
                again: torch.Tensor = aten.gelu_(restore_input(tensors), approximate=approximate)
                return again

            attach(activated, Kept(kept.tensors, restore))
        return activated

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradient of x, in the place of what was unpacked."""
        (gradient,) = gradients
        (restore,), _ = saved_for_backward(ctx)
        assert restore is not None
        x = restore()
        if ctx.derivative:
            return x.mul_(gradient), None, None, None
        aten.gelu_backward.grad_input(gradient.contiguous(), x, approximate=ctx.approximate, grad_input=x)
        return x, None, None, None


class Scale(Function):
    """x·gamma of x (…, D) and gamma (D,): LayerScale. Keeps x if gamma trains, and gamma."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gamma: torch.Tensor, kept: Kept | None) -> torch.Tensor:
        """``kept``: of x, if gamma trains."""
        save_for_backward(ctx, [kept], gamma if ctx.needs_input_grad[0] else None)
        ctx.formats = x.dtype, gamma.dtype
        return x * gamma

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x and gamma."""
        (gradient,) = gradients
        (restore,), (gamma,) = saved_for_backward(ctx)
        of_x = of_gamma = None
        if ctx.needs_input_grad[1]:
            assert restore is not None
            x = restore()
            x = x.mul_(gradient) if x.dtype == gradient.dtype else gradient * x
            of_gamma = x.sum(tuple(range(x.dim() - 1))).to(ctx.formats[1])
            del x
        if ctx.needs_input_grad[0]:
            of_x = (gradient * gamma).to(ctx.formats[0])
        return of_x, of_gamma, None
