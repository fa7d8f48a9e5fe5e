"""How methods change a timm vision transformer. Parameters keep their state-dict names."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bsr_explorer.methods import tokens
from bsr_explorer.tape import kept_tokens


class TokenDrop(nn.Module):
    """Drops patch tokens by class attention; sees the queries and keys of its block through ``watch``."""

    def __init__(self, keep: float, prefix: int, heads: int, fuse: bool) -> None:
        super().__init__()
        self.keep, self.prefix, self.heads, self.fuse = keep, prefix, heads, fuse
        self._qkv: torch.Tensor | None = None

    def watch(self, layer: nn.Module, inputs: Any, qkv: torch.Tensor) -> None:
        """Forward hook of the block's qkv layer."""
        self._qkv = qkv.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) → (B, fewer, D)."""
        qkv, self._qkv = self._qkv, None
        assert qkv is not None, "the block's attention runs before its drop"
        patches = int(x.shape[1]) - self.prefix
        if kept_tokens(patches, self.keep) == patches:
            return x
        scores = tokens.class_attention(qkv, self.heads, self.prefix)
        return tokens.drop_tokens(x, scores, self.keep, self.prefix, self.fuse)


class TokenDropBlock(nn.Module):
    """Modifications of timm's ``Block``: tokens are dropped between its two residual branches."""

    def __init__(self, block: nn.Module, drop: TokenDrop) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.drop = drop
        cast(Any, block).attn.qkv.register_forward_hook(drop.watch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) → (B, fewer, D)."""
        part = cast(Any, self)
        x = x + part.drop_path1(part.ls1(part.attn(part.norm1(x))))
        x = self.drop(x)
        return cast(torch.Tensor, x + part.drop_path2(part.ls2(part.mlp(part.norm2(x)))))


def drop_tokens_in(model: nn.Module, block: int, keep: float, fuse: bool) -> None:
    """Let a block (0-based) of a timm vision transformer drop tokens, in place."""
    vit = cast(Any, model)
    drop = TokenDrop(keep, vit.num_prefix_tokens, vit.blocks[block].attn.num_heads, fuse)
    vit.blocks[block] = TokenDropBlock(vit.blocks[block], drop)


def checkpoint_block(model: nn.Module, block: int) -> None:
    """Let a block (0-based) keep its input only, and run again in backward, in place.

    Nothing in it is random, so that no state of a random generator is kept.
    """
    module = cast(Any, model).blocks[block]
    module.forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)


def use_attention_path(model: nn.Module, path: str) -> None:
    """Let every attention layer run ``fused`` (one kernel) or ``math`` (explicit softmax)."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            cast(Any, module).fused_attn = path == "fused"
