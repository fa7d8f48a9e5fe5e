"""Learned tokens before the blocks of a timm vision transformer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

_STD = 0.02
"""Of the normal distribution that they are drawn from, as timm's other tokens are."""


def add_prompt(model: nn.Module, tokens: int) -> None:
    """Put learned tokens behind the class token and registers of what enters the first block, in place."""
    vit = cast(Any, model)
    prefix, like = vit.num_prefix_tokens, next(vit.blocks.parameters())
    drawn = _STD * torch.randn(1, tokens, vit.embed_dim, device=like.device)
    vit.norm_pre.register_parameter("prompt", nn.Parameter(drawn.to(like.dtype)))

    def hook(norm: Any, inputs: Any, x: torch.Tensor) -> torch.Tensor:
        prompt = norm.prompt.expand(x.shape[0], -1, -1)
        return torch.cat([x[:, :prefix], prompt, x[:, prefix:]], dim=1)

    vit.norm_pre.register_forward_hook(hook)
    vit.num_prefix_tokens = prefix + tokens  # what drops tokens, or takes their mean, leaves these alone
