"""A block of a timm vision transformer that merges alike tokens. Parameters keep their state-dict names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.autograd import Function

from bsr_explorer.models.vit.drop import ModifiedBlock
from bsr_explorer.models.vit.tokens import without_autocast
from bsr_explorer.operations.merging import check_merging, first_places, merged_tokens
from bsr_explorer.storages.keeper import take_attached

# --- the mathematics ------------------------------------------------------------------------------------


@torch.no_grad()
def match_tokens(qkv: torch.Tensor, heads: int, prefix: int, r: int) -> torch.Tensor:
    """Which tokens are merged: of the patches at an even place of all tokens (A), the ``r`` most like one at an odd
    place (B), by the cosine of their keys, averaged over the heads.

    Args:
        qkv: queries, keys and values as the block's own layer makes them, (B, N, 3·D).
        heads: attention heads.
        prefix: tokens before the patches, which are never merged.
        r: at most half of the patches.

    Returns:
        For each token its place in all (B·(N − r)) that there are then, 32-bit, (B, N): the prefix, what is left of A
        in its order, B.
    """
    with without_autocast(qkv.device.type):
        return _match(qkv, heads, prefix, r)


def _match(qkv: torch.Tensor, heads: int, prefix: int, r: int) -> torch.Tensor:
    tokens = int(qkv.shape[1])
    batch = qkv.shape[0] if torch.compiler.is_exporting() else int(qkv.shape[0])
    even, odd = first_places(prefix)
    mean = qkv.unflatten(2, (3, heads, -1)).select(2, 1).mean(dim=2)  # (B, N, d)
    directions = mean / torch.linalg.vector_norm(mean, dim=2, keepdim=True)
    del mean
    similar = directions[:, even::2].bmm(directions[:, odd::2].transpose(1, 2))
    del directions
    values, best = similar.max(dim=2)
    del similar
    highest = values.topk(r, dim=1).indices
    del values
    left = best.shape[1] - r
    stays = torch.ones_like(best).scatter_(1, highest, 0)
    places = stays.cumsum(1).add_(prefix - 1)
    del stays
    places.scatter_(1, highest, best.gather(1, highest).add_(prefix + left))
    del best, highest
    into = torch.empty((batch, tokens), dtype=torch.int64, device=qkv.device)  # as what is laid into it
    into[:, :prefix] = torch.arange(prefix, device=qkv.device)
    others = len(range(odd, tokens, 2))
    into[:, even::2] = places
    into[:, odd::2] = torch.arange(prefix + left, prefix + left + others, device=qkv.device)
    into += torch.arange(0, batch * (tokens - r), tokens - r, device=qkv.device).unsqueeze(1)
    return into.to(torch.int32)


@torch.no_grad()
def merge_sizes(into: torch.Tensor, sizes: torch.Tensor | None, r: int) -> torch.Tensor:
    """How many of the model's tokens each one is after a merge, (B, N − r), of how many it was, (B, N) (all 1, if
    nothing is said)."""
    batch, tokens = into.shape
    if sizes is None:
        sizes = torch.ones(into.shape, device=into.device)
    merged = torch.zeros((batch * (tokens - r),), device=into.device)
    return merged.index_add_(0, _rows(into), sizes.flatten()).view(batch, tokens - r)


@torch.no_grad()
def log_sizes(sizes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The logarithm of sizes (B, N), (B, 1, 1, N), in the number format of the queries that are made of tokens x."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    with without_autocast(device):
        return sizes.log().to(dtype)[:, None, None]


def _rows(into: torch.Tensor) -> torch.Tensor:
    """(B·N,) places; in an ONNX file they are 64-bit numbers."""
    rows = into.flatten()
    return rows.long() if torch.compiler.is_exporting() else rows


def merge_tokens(
    x: torch.Tensor, into: torch.Tensor, merged: torch.Tensor, sizes: torch.Tensor | None
) -> torch.Tensor:
    """The mean of tokens that go to one place, each as often as it is: (B, N, D) → (B, N − r, D).

    Args:
        into: see ``match_tokens``.
        merged: sizes after it, (B, N − r).
        sizes: those before it, (B, N), if they are not all 1.
    """
    with without_autocast(x.device.type):
        if torch.is_grad_enabled() and x.requires_grad:
            tokens: torch.Tensor = _MergeTokens.apply(x, into, merged, sizes)
        else:
            tokens = _merge(x, into, merged, sizes).tokens
    return tokens


class _Merged(NamedTuple):
    """``tokens`` (B, N − r, D), and the ``shares`` (B, N) that those before have of them."""

    tokens: torch.Tensor
    shares: torch.Tensor


def _merge(x: torch.Tensor, into: torch.Tensor, merged: torch.Tensor, sizes: torch.Tensor | None) -> _Merged:
    where, width = _rows(into), int(x.shape[2])
    picked = merged.flatten().index_select(0, where).view(into.shape)
    shares = picked.reciprocal() if sizes is None else sizes / picked
    del picked
    shares = shares.to(x.dtype)
    shared = x.new_empty(x.shape)  # row by row, however x lies
    torch.mul(x, shares.unsqueeze(2), out=shared)
    rows = x.new_zeros((merged.shape[0] * merged.shape[1], width)).index_add_(
        0, where, shared.view(-1, width)
    )
    return _Merged(rows.view(merged.shape[0], merged.shape[1], width), shares)


class _MergeTokens(Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, into: torch.Tensor, merged: torch.Tensor, sizes: torch.Tensor | None
    ) -> torch.Tensor:
        made = _merge(x, into, merged, sizes)
        ctx.save_for_backward(into, made.shares)
        return made.tokens

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """A token gets its share of the gradient of what it was merged into."""
        into, shares = ctx.saved_tensors
        rows = gradients[0].reshape(-1, gradients[0].shape[2])
        of_x = rows.index_select(0, into.flatten()).view(*into.shape, -1)
        return of_x.mul_(shares.unsqueeze(2)), None, None, None


# --- the blocks -----------------------------------------------------------------------------------------


@dataclass
class Sizes:
    """What blocks hand on beside the tokens: how many of the model's tokens each is, (B, N).

    Attributes:
        entered: whether a block was called. (One that runs again is not, and hands nothing on.)
    """

    now: torch.Tensor | None = None
    entered: bool = False


class TokenMerge(nn.Module):
    """Merges tokens; sees the keys of its block through ``watch``.

    Args:
        proportional: whether sizes are added to attention, too.

    Attributes:
        seen: is told where the patch tokens are after a merge, among those behind the prefix, (B, N − P).
    """

    def __init__(self, r: int, prefix: int, heads: int, proportional: bool = False) -> None:
        super().__init__()
        self.r, self.prefix, self.heads, self.proportional = r, prefix, heads, proportional
        self.seen: Callable[[torch.Tensor], None] | None = None
        self._qkv: torch.Tensor | None = None

    def watch(self, layer: nn.Module, inputs: Any, qkv: torch.Tensor) -> None:
        """Forward hook of the block's qkv layer."""
        if merged_tokens(int(qkv.shape[1]), self.prefix, self.r):  # else nobody holds it
            self._qkv = qkv

    def forward(
        self, x: torch.Tensor, sizes: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, N, D) → (B, fewer, D), and the sizes after it, unless no later block needs them."""
        r = merged_tokens(int(x.shape[1]), self.prefix, self.r)
        if not r:
            return x, sizes if self.proportional else None
        qkv, self._qkv = self._qkv, None
        assert qkv is not None, "the block's attention runs before its merge"
        take_attached(qkv)
        into = match_tokens(qkv, self.heads, self.prefix, r)
        if self.seen is not None:
            self.seen((into % (x.shape[1] - r) - self.prefix)[:, self.prefix :].long())
        merged = merge_sizes(into, sizes, r)
        x = merge_tokens(x, into, merged, sizes)
        needed = self.proportional or merged_tokens(int(x.shape[1]), self.prefix, self.r)
        return x, merged if needed else None

    def added(self, sizes: torch.Tensor | None, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What attention is given beside tokens x (B, N, D): the logarithm of their sizes, (B, 1, 1, N), if they have
        some and it shall be."""
        return {} if sizes is None or not self.proportional else {"attn_mask": log_sizes(sizes, x)}


class TokenMergeBlock(ModifiedBlock):
    """Modifications of timm's ``Block``: tokens are merged between its two residual branches."""

    def __init__(self, block: nn.Module, merge: TokenMerge, sizes: Sizes, first: bool, last: bool) -> None:
        super().__init__(block)
        self.merge, self._sizes, self._first, self._last = merge, sizes, first, last
        cast(Any, block).attn.qkv.register_forward_hook(merge.watch)
        self.register_forward_pre_hook(self._enter)
        self.register_forward_hook(self._leave)

    def _enter(self, block: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
        """The sizes are given to the block, so that one that runs again is given them again."""
        sizes, self._sizes.now, self._sizes.entered = self._sizes.now, None, True
        return inputs[0], None if self._first else sizes

    def _leave(self, block: nn.Module, inputs: Any, out: torch.Tensor) -> None:
        self._sizes.entered = False

    def forward(self, x: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
        """(B, N, D) → (B, fewer, D)."""
        part = cast(Any, self)
        x = x + part.drop_path1(part.ls1(part.attn(part.norm1(x), **self.merge.added(sizes, x))))
        x, merged = self.merge(x, sizes)
        if self._sizes.entered and not self._last:
            self._sizes.now = merged
        del merged
        return cast(torch.Tensor, x + part.drop_path2(part.ls2(part.mlp(part.norm2(x)))))


def merge_tokens_in(model: nn.Module, r: int, proportional: bool = False) -> None:
    """Let every block of a timm vision transformer merge ``r`` tokens, in place.

    Raises:
        UserError: it would leave no patch token.
    """
    vit, sizes = cast(Any, model), Sizes()
    check_merging(vit.patch_embed.num_patches, r)
    last = len(vit.blocks) - 1
    for place, block in enumerate(vit.blocks):
        merge = TokenMerge(r, vit.num_prefix_tokens, block.attn.num_heads, proportional).train(vit.training)
        vit.blocks[place] = TokenMergeBlock(block, merge, sizes, place == 0, place == last)
