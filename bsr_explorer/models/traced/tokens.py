"""Which built models can drop tokens: vision transformers of timm whose blocks are as ``vit.drop`` runs them."""

from __future__ import annotations

from typing import Any

from torch import nn


def why_not(model: nn.Module) -> str:
    """Why a model cannot drop tokens, in words; nothing, if it can.

    Drops stand between the two residual branches of a block (norm1, attn, ls1; norm2, mlp, ls2), and are chosen by the
    queries and keys that one layer makes. Blocks that are otherwise would compute something else with them.
    """
    from timm.layers import Attention
    from timm.models.vision_transformer import Block, VisionTransformer

    from bsr_explorer.models.vit.drop import TokenDropBlock

    if not isinstance(model, VisionTransformer):
        return f"it is a {type(model).__name__}, whose tokens do not all go from block to block"
    if model.attn_pool is not None:
        return "its head attends to all of its tokens"
    vit: Any = model
    for index, block in enumerate(vit.blocks):
        attention = getattr(block, "attn", None)
        if type(block) not in (Block, TokenDropBlock) or type(attention) is not Attention:
            found = type(block if type(attention) is Attention else attention).__name__
            return f"its block {index} has a {found}, which is not as a plain vision transformer's"
        altered = (getattr(attention, name, None) for name in ("q_norm", "k_norm", "gate"))
        if any(each is not None and not isinstance(each, nn.Identity) for each in altered):
            return f"the attention of its block {index} changes queries and keys"
    return ""


def has_class_token(model: nn.Module) -> bool:
    """Whether its first token is a class token, by whose attention tokens can be dropped."""
    return not why_not(model) and bool(model.has_class_token)


def prefix_tokens(model: nn.Module) -> int:
    """Tokens before the patches, in a model that can drop tokens."""
    return 0 if why_not(model) else int(model.num_prefix_tokens)  # type: ignore[arg-type]
