"""The mathematics of dropping tokens, on tensors only."""

from __future__ import annotations

import torch

from bsr_explorer.tape import kept_tokens


@torch.no_grad()
def class_attention(qkv: torch.Tensor, heads: int, prefix: int) -> torch.Tensor:
    """How much the class token attends to each patch token, averaged over the heads.

    Args:
        qkv: queries, keys and values as the block's own layer makes them, (B, N, 3·D).
        heads: attention heads H.
        prefix: tokens before the patches (class token, registers), P.

    Returns:
        Softmax attention of the class token over all N tokens, its patch part, (B, N − P).
    """
    batch, tokens, width3 = qkv.shape
    head_dim = width3 // 3 // heads
    q, k, _ = qkv.view(batch, tokens, 3, heads, head_dim).unbind(2)  # (B, N, H, d)
    query = q[:, 0].unsqueeze(3) * head_dim**-0.5  # (B, H, d, 1)
    # In this order a CPU gives an image the same last bit wherever in the batch it stands.
    attention = (k.transpose(1, 2) @ query).softmax(dim=2)  # (B, H, N, 1)
    scores: torch.Tensor = attention[:, :, prefix:, 0].mean(dim=1)
    return scores


def drop_tokens(x: torch.Tensor, scores: torch.Tensor, keep: float, prefix: int, fuse: bool) -> torch.Tensor:
    """Keep the prefix tokens and the patch tokens with the highest scores; fuse the others, or not.

    The fused token is the sum of the dropped tokens times their scores, not renormalised (EViT); it
    stands last, and is an ordinary token from then on.

    Args:
        x: tokens, (B, N, D).
        scores: one score a patch token, (B, N − P), without gradient.
        keep: keep rate in (0, 1].
        prefix: tokens that always stay, P.

    Returns:
        (B, P + ceil(keep · (N − P)) [+ 1 if fused], D).
    """
    tokens, width = int(x.shape[1]), int(x.shape[2])  # plain numbers also while a tracer watches
    # An exporter leaves the number of images open.
    batch = x.shape[0] if torch.compiler.is_exporting() else int(x.shape[0])
    kept = kept_tokens(tokens - prefix, keep)
    best = scores.topk(kept, dim=1, sorted=False).indices  # (B, K)
    # index_select keeps only its positions for backward; as 32-bit numbers, they take half the bytes.
    images = torch.arange(batch, device=x.device).unsqueeze(1) * tokens
    positions = (best + prefix + images).flatten().to(torch.int32)
    selected = x.reshape(batch * tokens, width).index_select(0, positions).view(batch, kept, width)
    parts = [x[:, :prefix], selected]
    if fuse:
        # A product with weight 0 for kept tokens needs no copy of the dropped ones.
        weights = scores.scatter(1, best, 0.0).unsqueeze(1)  # (B, 1, N − P)
        parts.append(torch.bmm(weights, x[:, prefix:]))  # (B, 1, D)
    return torch.cat(parts, dim=1)
