"""A block of a timm vision transformer that drops tokens. Parameters keep their state-dict names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import nn

from bsr_explorer.models.base import LEARNED, Selection
from bsr_explorer.models.vit import scores, tokens
from bsr_explorer.storages.keeper import take_attached, to_run_again


class TokenDrop(nn.Module):
    """Drops patch tokens by a criterion; one that is attention sees the queries and keys of its block through
    ``watch``.

    Args:
        block: by which the order is drawn that ``random`` drops by in evaluation, the same for all images. (In training
            each image's is drawn in each step, by torch's global generator.)

    Attributes:
        scorer: the layer that makes learned scores.
        seen: is told where the patch tokens are after a drop; see ``tokens.places``.
    """

    def __init__(self, selection: Selection, prefix: int, heads: int, block: int = 0) -> None:
        super().__init__()
        self.selection, self.prefix, self.heads, self.block = selection, prefix, heads, block
        self.seen: Callable[[torch.Tensor], None] | None = None
        self.scorer: nn.Linear | None = None
        self._qkv: torch.Tensor | None = None
        self._seed: int | None = None

    def watch(self, layer: nn.Module, inputs: Any, qkv: torch.Tensor) -> None:
        """Forward hook of the block's qkv layer."""
        if self._drops(int(qkv.shape[1])):  # else nobody holds it
            self._qkv = qkv

    def _drops(self, tokens: int) -> bool:
        """Whether it changes anything of so many."""
        now = self.training or self.selection.inference
        return now and not self.selection.keeps_all(tokens - self.prefix)

    def forward(self, x: torch.Tensor, explicit: bool) -> torch.Tensor:
        """(B, N, D) → (B, fewer, D); ``explicit``: whether the block's attention has an explicit softmax."""
        (qkv, self._qkv), chosen = (self._qkv, None), self.selection
        if not self._drops(int(x.shape[1])):
            return x
        if chosen.by_attention:
            assert qkv is not None, "the block's attention runs before its drop"
            found = self._attention(qkv, explicit)
        else:
            found = self._scores(x)
        if self.seen is not None:
            self.seen(tokens.places(found, chosen.keep, chosen.fuse))
        return tokens.drop_tokens(x, found, chosen.keep, self.prefix, chosen.fuse, chosen.by_mean)

    def _attention(self, qkv: torch.Tensor, explicit: bool) -> torch.Tensor:
        kept = take_attached(qkv)
        if self.selection.criterion == "attention":
            return scores.mean_attention(qkv, self.heads, self.prefix)
        with nullcontext() if self.selection.faithful else torch.no_grad():
            return tokens.class_attention(qkv, self.heads, self.prefix, explicit=explicit, kept=kept)

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        if self.selection.criterion == LEARNED:
            assert self.scorer is not None
            # A linear layer would copy what does not lie row by row in its own ways.
            return scores.patch_softmax(self.scorer(x.contiguous()), self.prefix)
        if self.selection.criterion == "norm":
            return scores.token_norms(x, self.prefix)
        if not self.training:
            return scores.fixed_scores(x, self.prefix, self.block)
        if to_run_again():  # what is recomputed draws what it drew
            self._seed = scores.fresh_seed()
        seed = scores.fresh_seed() if self._seed is None else self._seed
        return scores.drawn_scores(x, self.prefix, seed)


class ModifiedBlock(nn.Module):
    """Has the modules, parameters and forward hooks of a timm ``Block``, to run them otherwise."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        for name, own in block.named_parameters(recurse=False):
            self.register_parameter(name, own)
        for hook in block._forward_hooks.values():  # what was added to the block comes after it still
            self.register_forward_hook(hook)


class TokenDropBlock(ModifiedBlock):
    """Modifications of timm's ``Block``: tokens are dropped between its two residual branches."""

    def __init__(self, block: nn.Module, drop: TokenDrop) -> None:
        super().__init__(block)
        self.drop = drop
        if drop.selection.by_attention:
            cast(Any, block).attn.qkv.register_forward_hook(drop.watch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) → (B, fewer, D)."""
        part = cast(Any, self)
        x = x + part.drop_path1(part.ls1(part.attn(part.norm1(x))))
        x = self.drop(x, explicit=not part.attn.fused_attn)
        return cast(torch.Tensor, x + part.drop_path2(part.ls2(part.mlp(part.norm2(x)))))


def drop_tokens_in(model: nn.Module, block: int, selection: Selection) -> None:
    """Let a block (0-based) of a timm vision transformer drop tokens, in place."""
    vit = cast(Any, model)
    heads = vit.blocks[block].attn.num_heads
    drop = TokenDrop(selection, vit.num_prefix_tokens, heads, block)
    if selection.criterion == LEARNED:
        like = vit.blocks[block].norm2.weight
        drop.scorer = nn.Linear(len(like), 1, device=like.device, dtype=like.dtype)
    vit.blocks[block] = TokenDropBlock(vit.blocks[block], drop.train(vit.training))
