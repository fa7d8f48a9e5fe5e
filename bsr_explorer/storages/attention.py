"""Attention whose kept tensors are packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import Function

from bsr_explorer.storages.functions import aten, save_for_backward, saved_for_backward
from bsr_explorer.storages.keeper import Keeper, Kept

Kernel = Callable[..., Sequence[Any]]
KernelBackward = Callable[..., list[torch.Tensor]]


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
        save_for_backward(ctx, [kept])
        ctx.heads, ctx.kernel = heads, kernel
        return _tokens_first(attended)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradient of qkv."""
        (gradient,) = gradients
        (restore,), _ = saved_for_backward(ctx)
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
    "fused": (aten._scaled_dot_product_flash_attention_for_cpu, _cpu_backward),
    "flash": (aten._scaled_dot_product_flash_attention, _flash_backward),
    "efficient": (_efficient, _efficient_backward),
}
"""Fused kernels: forward, which makes the output and other things, and backward, which takes queries, keys, values and
these. (``fused`` is the CPU's; the others exist on CUDA only.)"""


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
        save_for_backward(ctx, [kept, softmax.keep(probabilities)])
        ctx.heads, ctx.scale = heads, scale
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradient of qkv."""
        (gradient,) = gradients
        (restore, restore_softmax), _ = saved_for_backward(ctx)
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
