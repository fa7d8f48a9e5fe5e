"""A model whose blocks note how much they change the class token, and of which each may drop tokens in training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from bsr_explorer.methods.alast import DROPPING, keeping
from bsr_explorer.methods.applied.moving import remember
from bsr_explorer.methods.moving import VALUES
from bsr_explorer.models.vit.drop import TokenDrop, TokenDropBlock
from bsr_explorer.naming import blocks_of


class Budgeted(TokenDrop):
    """Keeps as many patch tokens as it is told, in training; all of them in evaluation, and where nothing is said.

    Attributes:
        count: patch tokens that stay, or None.
    """

    count: int | None = None

    def watch(self, layer: nn.Module, inputs: Any, qkv: torch.Tensor) -> None:
        """See ``TokenDrop``."""
        self._be_told(int(qkv.shape[1]))
        super().watch(layer, inputs, qkv)

    def forward(self, x: torch.Tensor, explicit: bool) -> torch.Tensor:
        """See ``TokenDrop``."""
        self._be_told(int(x.shape[1]))
        return super().forward(x, explicit)

    def _be_told(self, tokens: int) -> None:
        patches = tokens - self.prefix
        some = self.training and self.count is not None and self.count < patches
        self.selection = replace(self.selection, keep=keeping(self.count or 0, patches) if some else 1.0)


def follow_class_token(model: nn.Module) -> None:
    """Let each block of a timm vision transformer drop tokens when it is told to, and note how much it changes the
    class token: the mean of squares over channels and images; in place."""
    vit = cast(Any, model)
    remember(model, torch.zeros(len(vit.blocks)))
    for place in range(len(vit.blocks)):
        plain = vit.blocks[place]
        drop = Budgeted(DROPPING, vit.num_prefix_tokens, plain.attn.num_heads)
        block = vit.blocks[place] = TokenDropBlock(plain, drop.train(vit.training))

        def note(module: nn.Module, inputs: Any, output: torch.Tensor, place: int = place) -> None:
            if module.training:
                with torch.no_grad():
                    change = output[:, 0] - inputs[0][:, 0]
                    torch.mean(change.square_(), dim=(0, 1), out=model.get_buffer(VALUES)[place])

        block.register_forward_hook(note)


def keep_tokens(model: nn.Module, tokens: dict[int, int]) -> None:
    """How many patch tokens stay in each block (0-based) of those that are named; in the others all do."""
    for place, block in enumerate(blocks_of(model)):
        if isinstance(drop := getattr(block, "drop", None), Budgeted):
            drop.count = tokens.get(place)


def patches_of(model: nn.Module) -> int:
    """Patch tokens that enter the first block."""
    return int(cast(Any, model).patch_embed.num_patches)


def width_of(model: nn.Module) -> int:
    """Channels of a token."""
    return int(cast(Any, model).embed_dim)
