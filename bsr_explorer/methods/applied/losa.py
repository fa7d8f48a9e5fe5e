"""Mixers of low rank beside the blocks of a timm vision transformer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from bsr_explorer.methods.losa import MIXERS
from bsr_explorer.naming import blocks_of


def _swapped(x: Tensor) -> Tensor:
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format)


class _Swap(Function):
    """(B, N, D) → (B, D, N), a copy. Keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Copy."""
        return _swapped(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Copy back."""
        return _swapped(gradients[0])


def swap(x: Tensor) -> Tensor:
    """(B, N, D) → (B, D, N), a copy."""
    if not torch.is_grad_enabled():
        return _swapped(x)
    made: Tensor = _Swap.apply(x)
    return made


class Mixer(nn.Module):
    """u → up(GELU(down(LN(u)))) over the channels of u (B, N, D), or over its tokens; zero at first.

    Args:
        width: D.
        tokens: N, to mix these; None: channels.
        like: a tensor of the device and number format that its parameters have.
    """

    def __init__(self, width: int, r: int, tokens: int | None, like: Tensor) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        mixed = width if tokens is None else tokens
        self.norm, self.down = nn.LayerNorm(width, eps=1e-6, **how), nn.Linear(mixed, r, **how)
        self.act, self.up = nn.GELU(), nn.Linear(r, mixed, **how)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self._swaps = tokens is not None

    def forward(self, u: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        # No name holds what lies between.
        if self._swaps:
            return swap(self.up(self.act(self.down(swap(self.norm(u))))))
        return cast(Tensor, self.up(self.act(self.down(self.norm(u)))))


class Mixers(nn.Module):
    """What stands behind one block.

    Args:
        last: whether it is the last.
    """

    def __init__(self, width: int, r: int, tokens: int, last: bool, like: Tensor) -> None:
        super().__init__()
        self.channels, self.tokens = Mixer(width, r, None, like), Mixer(width, r, tokens, like)
        self.last = last

    def forward(self, b: Tensor, y: Tensor | None) -> Tensor:
        """What leaves the block and the correction so far, (B, N, D) both → the correction; behind the last block,
        the sum."""
        y = self.channels(b) if y is None else y + self.channels(y + b)
        y = cast(Tensor, y + self.tokens(y + b))
        return b + y if self.last else y


class _Correcting:
    """A hook that carries the correction from block to block."""

    def __init__(self, first: nn.Module) -> None:
        self._so_far: list[Tensor] = []
        self._first = first

    def behind(self, block: nn.Module, inputs: Any, out: Tensor) -> Tensor | None:
        """Forward hook of a block."""
        mixers = cast(Mixers, block.get_submodule(MIXERS))
        if block is self._first:
            self._so_far.clear()  # of a pass that was broken off
        if mixers.last:
            return cast(Tensor, mixers(out, self._so_far.pop() if self._so_far else None))
        self._so_far.append(mixers(out, self._so_far.pop() if self._so_far else None))
        return None


def add_mixers(model: nn.Module, r: int) -> None:
    """Let mixers of rank r stand behind the blocks of a timm vision transformer, in place."""
    vit, correcting = cast(Any, model), _Correcting(blocks_of(model)[0])
    tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    for number, block in enumerate(blocks_of(model)):
        like, last = next(block.parameters()), number == len(blocks_of(model)) - 1
        block.add_module(MIXERS, Mixers(vit.embed_dim, r, tokens, last, like))
        block.register_forward_hook(correcting.behind)
