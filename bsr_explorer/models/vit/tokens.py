"""The mathematics of dropping tokens, on tensors only.

Where autograd records them, both operations run as functions that keep what their gradients need and no more; what
they compute is the same.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch._subclasses import FakeTensor
from torch.autograd import Function

from bsr_explorer.storages.keeper import Kept
from bsr_explorer.tape import kept_tokens

aten: Any = torch.ops.aten


def class_attention(
    qkv: torch.Tensor,
    heads: int,
    prefix: int,
    *,
    explicit: bool = False,
    kept: Kept | None = None,
) -> torch.Tensor:
    """How much the class token attends to each patch token, averaged over the heads.

    Gradients pass to the class token's query and to all keys, as through the softmax of the block's own attention.

    Args:
        qkv: queries, keys and values as the block's own layer makes them, (B, N, 3·D).
        heads: attention heads H.
        prefix: tokens before the patches (class token, registers), P.
        explicit: whether the block's attention runs with an explicit softmax. It then keeps copies of its own, and the
            keys are kept here too; a fused kernel keeps qkv anyway, of which the keys are a part.
        kept: what the block's attention keeps of qkv instead, if it packs it.

    Returns:
        Softmax attention of the class token over all N tokens, its patch part, (B, N − P).
    """
    # Autocast's softmax on CUDA is fp32.
    wide = torch.float32 if qkv.is_cuda and torch.is_autocast_enabled("cuda") else None
    with without_autocast(qkv.device.type):
        if recorded(qkv):
            scores: torch.Tensor = _ClassAttention.apply(qkv, heads, prefix, explicit, kept, wide)
        else:
            scores = _attend(qkv, heads, prefix, wide).scores
    return scores


def drop_tokens(
    x: torch.Tensor, scores: torch.Tensor, keep: float, prefix: int, fuse: bool, mean: bool = False
) -> torch.Tensor:
    """Keep the prefix tokens and the patch tokens with the highest scores; fuse the others, or not.

    The fused token is the sum of the dropped tokens times their scores, not renormalised (EViT); it
    stands last, and is an ordinary token from then on. Where every token is kept, it is zero.

    Args:
        x: tokens, (B, N, D).
        scores: one score a patch token, (B, N − P). If they need a gradient, the dropped tokens are kept for it.
        keep: keep rate in (0, 1].
        prefix: tokens that always stay, P.
        mean: whether the fused token is the plain mean of the dropped ones, whose scores are no weights.

    Returns:
        (B, P + ceil(keep · (N − P)) [+ 1 if fused], D).
    """
    with without_autocast(x.device.type):
        if recorded(x, scores):
            tokens: torch.Tensor = _DropTokens.apply(x, scores, keep, prefix, fuse, mean)
        else:
            tokens = _drop(x, scores, keep, prefix, fuse, mean).tokens
    return tokens


def places(scores: torch.Tensor, keep: float, fuse: bool) -> torch.Tensor:
    """Where ``drop_tokens`` lays the patch tokens that it keeps, among those behind the prefix, (B, N − P); -1 for
    those that it drops or fuses."""
    count = kept_tokens(int(scores.shape[1]), keep)
    kept = _best(scores, count, fuse)[1][:, :count]
    there = torch.arange(count, device=scores.device).expand_as(kept)
    return torch.full(scores.shape, -1, device=scores.device).scatter_(1, kept, there)


def recorded(*tensors: torch.Tensor) -> bool:
    """Whether autograd records what is made of tensors. A trace, which runs without gradients, sees what it
    would record (``models.traced``)."""
    traced = isinstance(tensors[0], FakeTensor) and not torch.compiler.is_exporting()
    return torch.is_grad_enabled() and (traced or any(tensor.requires_grad for tensor in tensors))


def without_autocast(device: str) -> AbstractContextManager[object]:
    """The operands have their number formats already. (An exporter is not to see what changes nothing.)"""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


# --- the class token's attention ------------------------------------------------------------------------


class _Attended(NamedTuple):
    """``scores`` (B, N − P), and what they were made of: the ``query`` (B·H, d, 1), scaled; the ``keys``
    (B·H, N, d), which are a copy unless there is one image or one head; the ``attention`` (B·H, N, 1)."""

    scores: torch.Tensor
    query: torch.Tensor
    keys: torch.Tensor | None
    attention: torch.Tensor


def _attend(
    qkv: torch.Tensor, heads: int, prefix: int, softmax: torch.dtype | None, with_keys: bool = False
) -> _Attended:
    tokens, head_dim = int(qkv.shape[1]), int(qkv.shape[2]) // 3 // heads
    q, k, _ = qkv.unflatten(2, (3, heads, head_dim)).unbind(2)  # (B, N, H, d)
    query = (q[:, 0] * head_dim**-0.5).reshape(-1, head_dim, 1)
    keys = _side_by_side(k)
    # In this order a CPU gives an image the same last bit wherever in the batch it stands.
    products = keys.bmm(query)  # (B·H, N, 1)
    if not with_keys:
        del keys
    attention = products.softmax(dim=1, dtype=softmax)
    del products
    scores = attention.view(-1, heads, tokens)[:, :, prefix:].mean(dim=1)
    return _Attended(scores, query, keys if with_keys else None, attention)


def _keys(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """The keys among queries, keys and values, (B, N, H, d), as a view."""
    keys: torch.Tensor = qkv.unflatten(2, (3, heads, -1)).select(2, 1)
    return keys


def _side_by_side(keys: torch.Tensor) -> torch.Tensor:
    """(B, N, H, d) → (B·H, N, d), a view where there is one image or one head."""
    return keys.transpose(1, 2).reshape(-1, keys.shape[1], keys.shape[3])


class _ClassAttention(Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        heads: int,
        prefix: int,
        explicit: bool,
        kept: Kept | None,
        softmax: torch.dtype | None,
    ) -> torch.Tensor:
        made = _attend(qkv, heads, prefix, softmax, with_keys=explicit and kept is None)
        keys = made.keys if explicit else _keys(qkv, heads)
        ctx.restore = None if kept is None else kept.restore
        ctx.heads, ctx.prefix, ctx.shape = heads, prefix, qkv.shape
        ctx.save_for_backward(made.query, made.attention, *((keys,) if kept is None else kept.tensors))
        return made.scores

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradient of qkv: of the class token's query and of all keys; the rest is zero."""
        heads, prefix, shape = ctx.heads, ctx.prefix, ctx.shape
        query, attention, *kept = ctx.saved_tensors
        of_attention = torch.zeros_like(attention)
        of_attention.view(-1, heads, shape[1])[:, :, prefix:] = (gradients[0] / heads).unsqueeze(1)
        of_products = aten._softmax_backward_data(of_attention, attention, 1, attention.dtype)
        del of_attention
        of_products = of_products.to(query.dtype)
        keys = kept[0] if ctx.restore is None else _keys(ctx.restore(kept), heads)
        if keys.dim() == 4:
            keys = _side_by_side(keys)
        of_query = keys.transpose(1, 2).bmm(of_products).mul_(query.shape[1] ** -0.5)  # (B·H, d, 1)
        del keys
        of_qkv = query.new_zeros(shape)
        of_q, of_k, _ = of_qkv.unflatten(2, (3, heads, -1)).unbind(2)  # (B, N, H, d), views
        of_q[:, 0] = of_query.view(-1, *of_q.shape[2:])
        per_key = of_products.view(-1, heads, shape[1], 1).transpose(1, 2)
        torch.mul(per_key, query.view(-1, 1, *of_q.shape[2:]), out=of_k)
        return of_qkv, None, None, None, None, None


# --- the drop -------------------------------------------------------------------------------------------


class _Dropped(NamedTuple):
    """``tokens`` that stay, and what backward needs: the ``positions`` of the patch tokens in all (B·N), the best
    first, (B, N − P) if others are fused, else (B, K) of the kept ones; ``weights`` (B, N − P − K) and ``dropped``
    tokens (B, N − P − K, D)."""

    tokens: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor | None = None
    dropped: torch.Tensor | None = None


def _drop(
    x: torch.Tensor, scores: torch.Tensor, keep: float, prefix: int, fuse: bool, mean: bool
) -> _Dropped:
    tokens, width = int(x.shape[1]), int(x.shape[2])  # plain numbers also while a tracer watches
    # An exporter leaves the number of images open.
    batch = x.shape[0] if torch.compiler.is_exporting() else int(x.shape[0])
    patches = tokens - prefix
    count = kept_tokens(patches, keep)
    best = _best(scores, count, fuse)
    images = torch.arange(batch, device=x.device).unsqueeze(1) * tokens
    # As 32-bit numbers, positions take half the bytes.
    positions = (best.indices + prefix + images).to(torch.int32)
    rows = x.reshape(batch * tokens, width)
    selected = rows.index_select(0, positions[:, :count].flatten()).view(batch, count, width)
    if not fuse:
        return _Dropped(torch.cat([x[:, :prefix], selected], dim=1), positions)
    weights = None
    if not mean:
        weights = best.values[:, count:].to(x.dtype, memory_format=torch.contiguous_format, copy=True)
    del best, images
    dropped = rows.index_select(0, positions[:, count:].flatten()).view(batch, patches - count, width)
    fused = (
        dropped.mean(1, keepdim=True) if weights is None else weights.unsqueeze(1).bmm(dropped)
    )  # (B, 1, D)
    return _Dropped(torch.cat([x[:, :prefix], selected, fused], dim=1), positions, weights, dropped)


def _best(scores: torch.Tensor, count: int, fuse: bool) -> Any:
    """The highest scores and their places, (B, count); all of them, in order, where the others are fused."""
    return scores.topk(int(scores.shape[1]) if fuse else count, dim=1, sorted=fuse)


class _DropTokens(Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scores: torch.Tensor, keep: float, prefix: int, fuse: bool, mean: bool
    ) -> torch.Tensor:
        made = _drop(x, scores, keep, prefix, fuse, mean)
        ctx.shape, ctx.prefix, ctx.fuse, ctx.scored = x.shape, prefix, fuse, scores.dtype
        scored = ctx.needs_input_grad[1]
        ctx.save_for_backward(made.positions, made.weights, made.dropped if scored else None)
        return made.tokens

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of the tokens and of the scores (zero but for those of dropped tokens), where they need one."""
        (gradient,) = gradients
        positions, weights, dropped = ctx.saved_tensors
        (batch, tokens, width), prefix = ctx.shape, ctx.prefix
        count = gradient.shape[1] - prefix - ctx.fuse
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = gradient.new_zeros(ctx.shape)
            rows = of_x.view(-1, width)
            of_x[:, :prefix] = gradient[:, :prefix]
            selected = gradient[:, prefix : prefix + count].reshape(-1, width)
            rows.index_add_(0, positions[:, :count].flatten(), selected)
            del selected
        if not ctx.fuse:
            return of_x, None, None, None, None, None
        of_fused, where = gradient[:, -1:], positions[:, count:].flatten()
        if weights is None:
            others = tokens - prefix - count
            rows.index_add_(0, where, (of_fused / others).expand(-1, others, -1).reshape(-1, width))
            return of_x, None, None, None, None, None
        if ctx.needs_input_grad[0]:
            rows.index_add_(0, where, weights.unsqueeze(2).bmm(of_fused).view(-1, width))
        if not ctx.needs_input_grad[1]:
            return of_x, None, None, None, None, None
        by_token = gradient.new_zeros(batch * tokens)
        by_token.index_add_(0, where, dropped.bmm(of_fused.transpose(1, 2)).flatten())
        of_scores = by_token.view(batch, tokens)[:, prefix:].to(ctx.scored, copy=True)
        return of_x, of_scores, None, None, None, None
