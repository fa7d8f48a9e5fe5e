"""Learned tokens before the blocks of a timm vision transformer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from torch.autograd import Function

from bsr_explorer.methods.vpt import OWN
from bsr_explorer.naming import blocks_of

_STD = 0.02
"""Of the normal distribution that they are drawn from, as timm's other tokens are."""


def add_prompt(model: nn.Module, tokens: int) -> int:
    """Put learned tokens behind the class token and registers of what enters the first block, in place.

    Returns:
        Behind how many tokens they stand.
    """
    vit = cast(Any, model)
    prefix: int = vit.num_prefix_tokens
    vit.norm_pre.register_parameter("prompt", _drawn(vit, tokens))

    def hook(norm: Any, inputs: Any, x: torch.Tensor) -> torch.Tensor:
        prompt = norm.prompt.expand(x.shape[0], -1, -1)
        return torch.cat([x[:, :prefix], prompt, x[:, prefix:]], dim=1)

    vit.norm_pre.register_forward_hook(hook)
    vit.num_prefix_tokens = prefix + tokens  # what drops tokens, or takes their mean, leaves these alone
    return prefix


def add_prompts_of_blocks(model: nn.Module, tokens: int, prefix: int) -> None:
    """Let each block but the first have learned tokens of its own in the place of those that leave the block below, in
    place.

    Args:
        prefix: behind how many tokens they stand.
    """
    for below, block in pairwise(blocks_of(model)):
        block.register_parameter(OWN, _drawn(model, tokens))
        below.register_forward_hook(_Own(block, prefix))


def _drawn(model: nn.Module, tokens: int) -> nn.Parameter:
    """Tokens (1, n, D)."""
    like = next(blocks_of(model)[0].parameters())
    drawn = _STD * torch.randn(1, tokens, cast(Any, model).embed_dim, device=like.device)
    return nn.Parameter(drawn.to(like.dtype))


class _Own:
    """Hook of the block below one that has tokens of its own."""

    def __init__(self, block: nn.Module, prefix: int) -> None:
        self._block, self._prefix = block, prefix

    def __call__(self, below: nn.Module, inputs: Any, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) → (B, N, D)."""
        own = self._block.get_parameter(OWN)
        if torch.is_grad_enabled() and (x.requires_grad or own.requires_grad):
            replaced: torch.Tensor = _Replaced.apply(x, own, self._prefix)
            return replaced
        return _replaced(x, own, self._prefix)


def _replaced(x: torch.Tensor, tokens: torch.Tensor, first: int) -> torch.Tensor:
    expanded = tokens.expand(x.shape[0], -1, -1)
    return torch.cat([x[:, :first], expanded, x[:, first + tokens.shape[1] :]], dim=1)


class _Replaced(Function):
    """Other tokens (1, n, D) in the place of some of x (B, N, D). Keeps nothing. (As autograd has it, each part of x
    would have a gradient of all tokens.)"""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, tokens: torch.Tensor, first: int) -> torch.Tensor:
        """``first``: the place of the first of them."""
        ctx.at = slice(first, first + tokens.shape[1])
        return _replaced(x, tokens, first)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x and of the tokens."""
        (gradient,) = gradients
        of_x = of_tokens = None
        if ctx.needs_input_grad[1]:
            of_tokens = gradient[:, ctx.at].sum(0, keepdim=True)
        if ctx.needs_input_grad[0]:
            of_x = gradient.clone()
            of_x[:, ctx.at] = 0
        return of_x, of_tokens, None
