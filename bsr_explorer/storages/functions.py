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
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import Function

from bsr_explorer.storages.keeper import Keeper, Kept, attach

aten: Any = torch.ops.aten

Kernel = Callable[..., Sequence[Any]]
KernelBackward = Callable[..., list[torch.Tensor]]


def _save(ctx: Any, kept: Sequence[Kept | None], *tensors: torch.Tensor | None) -> None:
    """Save what is kept and other tensors for backward."""
    ctx.ways = [(len(k.tensors), k.restore) if k else None for k in kept]
    ctx.save_for_backward(*(t for k in kept if k for t in k.tensors), *tensors)


def _saved(ctx: Any) -> tuple[list[Callable[[], torch.Tensor] | None], list[Any]]:
    """What ``_save`` saved: for each tensor kept the way to restore it, and the other tensors."""
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
        _save(ctx, [kept], weight if ctx.needs_input_grad[0] else None)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x, W and b."""
        (gradient,) = gradients
        (restore,), (weight,) = _saved(ctx)
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[1]:
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
            _save(ctx, [kept], None, rstd, weight, bias)
            if output:
                attach(normed, _affine_again(kept, weight, bias))
        else:
            _save(ctx, [kept], mean, rstd, weight, bias)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x, weight and bias."""
        gradient = gradients[0].contiguous()
        (restore,), (mean, rstd, weight, bias) = _saved(ctx)
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
    count, restore_input, affine = len(kept.tensors), kept.restore, (weight is not None, bias is not None)
    parameters = [p.detach() for p in (weight, bias) if p is not None]

    def restore(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        x, rest = restore_input(tensors[:count]), list(tensors[count:])
        if affine[0]:
            x.mul_(rest.pop(0))
        if affine[1]:
            x.add_(rest.pop(0))
        return x

    return Kept((*kept.tensors, *parameters), restore)


class Gelu(Function):
    """GELU. Keeps its input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, approximate: str, kept: Kept, output: bool) -> torch.Tensor:
        """``output``: whether what is kept shall also serve to compute the output again."""
        activated = F.gelu(x, approximate=approximate)
        _save(ctx, [kept])
        ctx.approximate = approximate
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
        (restore,), _ = _saved(ctx)
        assert restore is not None
        x = restore()
        aten.gelu_backward.grad_input(gradient.contiguous(), x, approximate=ctx.approximate, grad_input=x)
        return x, None, None, None


class Scale(Function):
    """x·gamma of x (…, D) and gamma (D,): LayerScale. Keeps x if gamma trains, and gamma."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gamma: torch.Tensor, kept: Kept | None) -> torch.Tensor:
        """``kept``: of x, if gamma trains."""
        _save(ctx, [kept], gamma if ctx.needs_input_grad[0] else None)
        ctx.formats = x.dtype, gamma.dtype
        return x * gamma

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x and gamma."""
        (gradient,) = gradients
        (restore,), (gamma,) = _saved(ctx)
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


# --- attention ------------------------------------------------------------------------------------------


def _by_head(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values (B, H, N, d) as views of (B, N, 3·D)."""
    batch, tokens, _ = qkv.shape
    return qkv.view(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _tokens_first(x: torch.Tensor) -> torch.Tensor:
    """(B, H, N, d) → (B, N, D)."""
    return x.transpose(1, 2).flatten(2)


def _side_by_side(like: torch.Tensor, heads: int, parts: list[torch.Tensor]) -> torch.Tensor:
    """Gradients of queries, keys and values (B, H, N, d) laid into one (B, N, 3·D); each is let go of."""
    batch, tokens, _ = like.shape
    whole = like.new_empty(batch, tokens, 3, heads, parts[0].shape[-1])
    for place in range(3):
        whole[:, :, place].copy_(parts.pop(0).transpose(1, 2))
    return whole.view(batch, tokens, -1)


class FusedAttention(Function):
    """Attention by one kernel, of queries, keys and values in one tensor (B, N, 3·D). Keeps these alone.

    Backward runs the kernel forward again, on what was unpacked: its output and its log-sum-exp then belong to the
    same queries and keys as the gradients. (Exact ones, kept from the forward pass, would not: rows of the softmax
    would no longer sum to 1, and with few bits their exponentials explode.)
    """

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, heads: int, kernel: str, kept: Kept) -> Any:
        """``kernel``: key of ``KERNELS``; ``kept``: of qkv."""
        attended = KERNELS[kernel][0](*_by_head(qkv, heads))[0]
        _save(ctx, [kept])
        ctx.heads, ctx.kernel = heads, kernel
        return _tokens_first(attended)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradient of qkv."""
        (gradient,) = gradients
        (restore,), _ = _saved(ctx)
        assert restore is not None
        parts = _unfused(gradient, restore(), ctx.heads, *KERNELS[ctx.kernel])
        return _side_by_side(gradient, ctx.heads, parts), None, None, None


def _unfused(
    gradient: torch.Tensor, qkv: torch.Tensor, heads: int, run: Kernel, unwind: KernelBackward
) -> list[torch.Tensor]:
    """Gradients of queries, keys and values, each (B, H, N, d)."""
    parts = _by_head(qkv, heads)
    made = run(*parts)
    return unwind(gradient.unflatten(2, (heads, -1)).transpose(1, 2), *parts, *made)


def _cpu_backward(g: torch.Tensor, *made: Any) -> list[torch.Tensor]:
    return list(aten._scaled_dot_product_flash_attention_for_cpu_backward(g, *made, 0.0, False))


def _flash_backward(g: torch.Tensor, *made: Any) -> list[torch.Tensor]:
    *most, seed, offset, _ = made
    return list(aten._scaled_dot_product_flash_attention_backward(g, *most, 0.0, False, seed, offset))


def _efficient(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
    return aten._scaled_dot_product_efficient_attention(q, k, v, None, True)


def _efficient_backward(g: torch.Tensor, q: Any, k: Any, v: Any, *made: Any) -> list[torch.Tensor]:
    wanted = [True, True, True, False]
    backward = aten._scaled_dot_product_efficient_attention_backward
    return list(backward(g, q, k, v, None, *made, 0.0, wanted))[:3]


KERNELS: dict[str, tuple[Kernel, KernelBackward]] = {
    "cpu": (aten._scaled_dot_product_flash_attention_for_cpu, _cpu_backward),
    "flash": (aten._scaled_dot_product_flash_attention, _flash_backward),
    "efficient": (_efficient, _efficient_backward),
}
"""Fused kernels: forward, which makes the output and other things, and backward, which takes queries, keys, values and
these. (The last two exist on CUDA only.)"""


class ExplicitAttention(Function):
    """Attention with an explicit softmax, of queries, keys and values in one tensor (B, N, 3·D). Keeps these, and
    the softmax (B, H, N, N) once, for its own backward and for that of the product with the values."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        heads: int,
        scale: float,
        dtype: torch.dtype,
        kept: Kept,
        softmax: Keeper,
    ) -> torch.Tensor:
        """``scale``: of the queries; ``dtype``: in which the softmax is computed; ``kept``: of qkv."""
        q, k, v = _by_head(qkv, heads)
        scores = (q * scale) @ k.transpose(-2, -1)
        probabilities = scores.softmax(dim=-1, dtype=dtype).to(v.dtype)
        del scores
        attended = _tokens_first(probabilities @ v)
        _save(ctx, [kept, softmax.keep(probabilities)])
        ctx.heads, ctx.scale = heads, scale
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradient of qkv."""
        (gradient,) = gradients
        (restore, restore_softmax), _ = _saved(ctx)
        assert restore is not None and restore_softmax is not None
        parts = _unwound(gradient, restore(), restore_softmax(), ctx.heads, ctx.scale)
        return _side_by_side(gradient, ctx.heads, parts), None, None, None, None, None


def _unwound(
    gradient: torch.Tensor, qkv: torch.Tensor, probabilities: torch.Tensor, heads: int, scale: float
) -> list[torch.Tensor]:
    """Gradients of queries, keys and values, each (B, H, N, d): products of batches of heads, laid out as those of the
    forward pass are, for the last bit of a sum depends on it."""
    q, k, v = _by_head(qkv, heads)
    shape, softmax = q.shape, probabilities.flatten(0, 1)
    del probabilities
    g = gradient.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)
    of_v = softmax.transpose(1, 2).bmm(g)
    of_scores = g.bmm(v.flatten(0, 1).transpose(1, 2))
    del g
    of_scores = aten._softmax_backward_data(of_scores, softmax, -1, softmax.dtype)
    del softmax
    of_q = of_scores.bmm(k.transpose(2, 3).flatten(0, 1).transpose(1, 2)).mul_(scale)
    scaled = (q * scale).flatten(0, 1)
    of_k = scaled.transpose(1, 2).bmm(of_scores).transpose(1, 2)
    return [part.unflatten(0, shape[:2]) for part in (of_q, of_k, of_v)]
