"""A block of a timm vision transformer that drops tokens. Parameters keep their state-dict names."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import nn

from bsr_explorer.models.vit import tokens
from bsr_explorer.storages.keeper import take_attached
from bsr_explorer.tape import kept_tokens


class TokenDrop(nn.Module):
    """Drops patch tokens by class attention; sees the queries and keys of its block through ``watch``."""

    def __init__(self, keep: float, prefix: int, heads: int, fuse: bool, faithful: bool) -> None:
        super().__init__()
        self.keep, self.prefix, self.heads = keep, prefix, heads
        self.fuse, self.faithful = fuse, faithful
        self._qkv: torch.Tensor | None = None

    def watch(self, layer: nn.Module, inputs: Any, qkv: torch.Tensor) -> None:
        """Forward hook of the block's qkv layer."""
        self._qkv = qkv

    def forward(self, x: torch.Tensor, explicit: bool) -> torch.Tensor:
        """(B, N, D) → (B, fewer, D); ``explicit``: whether the block's attention has an explicit softmax."""
        qkv, self._qkv = self._qkv, None
        assert qkv is not None, "the block's attention runs before its drop"
        patches = int(x.shape[1]) - self.prefix
        if not self.faithful and kept_tokens(patches, self.keep) == patches:
            return x
        kept = take_attached(qkv)
        with nullcontext() if self.faithful else torch.no_grad():
            scores = tokens.class_attention(qkv, self.heads, self.prefix, explicit=explicit, kept=kept)
        return tokens.drop_tokens(x, scores, self.keep, self.prefix, self.fuse)


class TokenDropBlock(nn.Module):
    """Modifications of timm's ``Block``: tokens are dropped between its two residual branches."""

    def __init__(self, block: nn.Module, drop: TokenDrop) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        for name, own in block.named_parameters(recurse=False):
            self.register_parameter(name, own)
        for hook in block._forward_hooks.values():  # what was added to the block comes after it still
            self.register_forward_hook(hook)
        self.drop = drop
        cast(Any, block).attn.qkv.register_forward_hook(drop.watch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) → (B, fewer, D)."""
        part = cast(Any, self)
        x = x + part.drop_path1(part.ls1(part.attn(part.norm1(x))))
        x = self.drop(x, explicit=not part.attn.fused_attn)
        return cast(torch.Tensor, x + part.drop_path2(part.ls2(part.mlp(part.norm2(x)))))


def drop_tokens_in(model: nn.Module, block: int, keep: float, fuse: bool, faithful: bool) -> None:
    """Let a block (0-based) of a timm vision transformer drop tokens, in place.

    Args:
        fuse: whether the dropped tokens live on as one.
        faithful: whether gradients pass to the scores that weight them.
    """
    vit = cast(Any, model)
    drop = TokenDrop(keep, vit.num_prefix_tokens, vit.blocks[block].attn.num_heads, fuse, faithful)
    vit.blocks[block] = TokenDropBlock(vit.blocks[block], drop)
