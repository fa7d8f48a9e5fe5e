"""Scores of patch tokens that need no class token, on tensors only. No gradient passes to what they are made of, but
for learned ones."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.autograd import Function

from bsr_explorer.models.vit.tokens import recorded, without_autocast


@torch.no_grad()
def token_norms(x: torch.Tensor, prefix: int) -> torch.Tensor:
    """The length of each patch token: (B, N, D) → (B, N − P), where P tokens stand before the patches."""
    with without_autocast(x.device.type):
        norms: torch.Tensor = torch.linalg.vector_norm(x[:, prefix:], dim=2)
    return norms


@torch.no_grad()
def mean_attention(qkv: torch.Tensor, heads: int, prefix: int) -> torch.Tensor:
    """How much attention each patch token receives: the mean over all N tokens, as queries, and over the heads.

    It is computed apart, one head after another, so that fused attention stays fused, and what is made on the way is
    one head's softmax, (B, N, N).

    Args:
        qkv: queries, keys and values as the block's own layer makes them, (B, N, 3·D).
        heads: attention heads H.
        prefix: tokens before the patches, P.

    Returns:
        (B, N − P); with the part of the prefix tokens, they would add up to 1.
    """
    # Autocast's softmax on CUDA is fp32.
    wide = torch.float32 if qkv.is_cuda and torch.is_autocast_enabled("cuda") else None
    with without_autocast(qkv.device.type):
        head_dim = int(qkv.shape[2]) // 3 // heads
        q, k, _ = qkv.unflatten(2, (3, heads, head_dim)).unbind(2)  # (B, N, H, d)
        total: torch.Tensor = _received(q[:, :, 0], k[:, :, 0], wide)
        for head in range(1, heads):
            total += _received(q[:, :, head], k[:, :, head], wide)
        return total[:, prefix:] / heads


def _received(q: torch.Tensor, k: torch.Tensor, softmax: torch.dtype | None) -> torch.Tensor:
    """Queries and keys of one head, (B, N, d) → (B, N)."""
    products = (q * q.shape[2] ** -0.5).bmm(k.transpose(1, 2))
    attention = products.softmax(dim=2, dtype=softmax)
    del products
    received: torch.Tensor = attention.mean(dim=1)
    return received


def patch_softmax(numbers: torch.Tensor, prefix: int) -> torch.Tensor:
    """A number for each token → scores of the patches that add up to 1: (B, N, 1) → (B, N − P). Gradients pass."""
    # Autocast's softmax on CUDA is fp32.
    wide = torch.float32 if numbers.is_cuda and torch.is_autocast_enabled("cuda") else None
    with without_autocast(numbers.device.type):
        if recorded(numbers):
            made: torch.Tensor = _PatchSoftmax.apply(numbers, prefix, wide)
        else:
            made = numbers[:, prefix:, 0].softmax(dim=1, dtype=wide)
    return made


class _PatchSoftmax(Function):
    @staticmethod
    def forward(ctx: Any, numbers: torch.Tensor, prefix: int, wide: torch.dtype | None) -> torch.Tensor:
        made = numbers[:, prefix:, 0].softmax(dim=1, dtype=wide)
        ctx.save_for_backward(made)
        ctx.shape, ctx.prefix, ctx.format = numbers.shape, prefix, numbers.dtype
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Prefix tokens get none."""
        (made,) = ctx.saved_tensors
        of_patches = torch.ops.aten._softmax_backward_data(gradients[0], made, 1, made.dtype)
        of_numbers = of_patches.new_zeros(ctx.shape, dtype=ctx.format)
        of_numbers[:, ctx.prefix :, 0] = of_patches
        return of_numbers, None, None


def drawn_scores(x: torch.Tensor, prefix: int, seed: int) -> torch.Tensor:
    """A random number for each patch token of each image, the same for the same seed: (B, N, D) → (B, N − P)."""
    shape = (x.shape[0], int(x.shape[1]) - prefix)
    # (Two traces of one call are alike, and draw nothing.)
    generator = None if isinstance(x, FakeTensor) else torch.Generator(x.device).manual_seed(seed)
    return torch.rand(shape, dtype=torch.float32, device=x.device, generator=generator)


def fixed_scores(x: torch.Tensor, prefix: int, seed: int) -> torch.Tensor:
    """A random order of the patch tokens that is the same for all images: (B, N, D) → (B, N − P)."""
    patches = int(x.shape[1]) - prefix
    order = random.Random(seed).sample(
        range(patches), patches
    )  # of Python's own, which an exporter need not know
    return torch.tensor(order, dtype=torch.float32, device=x.device).expand(x.shape[0], -1)


def fresh_seed() -> int:
    """A seed of torch's global generator."""
    drawn = torch.empty((), dtype=torch.int64).random_()
    return 0 if isinstance(drawn, FakeTensor) else int(drawn)  # a trace has no numbers, and needs none
