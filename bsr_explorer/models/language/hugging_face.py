"""Decoders of Hugging Face's ``transformers``, from a configuration, with random weights.

Attention is their ``eager`` one, an explicit softmax: with the others, what the library computes depends on whether it
sees that it is traced, so that a prediction would not be of what runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bsr_explorer.errors import UserError, require
from bsr_explorer.models.language.shape import Shape

if TYPE_CHECKING:
    from torch import nn

NAMES = {"hf_llama": "LlamaForCausalLM", "hf_gpt2": "GPT2LMHeadModel"}
"""The classes of ``transformers`` behind names."""

EAGER: dict[str, Any] = {"attn_implementation": "eager"}

WITHOUT = {"hf_llama": ("checkpoint",)}
"""Methods that a model does not go with: blocks of Llama are handed the angles of positions and the mask by name, and
what holds these until backward is the checkpoint's own closure, which nobody sees."""


def check(name: str, model: str, shape: Shape) -> None:
    """Refuse numbers that such a model has not, and what is not installed.

    Args:
        name: key of ``NAMES``.
        model: as it was written.

    Raises:
        UserError: it says which.
    """
    require("transformers", f"--model: {model}", "hf")
    if shape.chunk is not None:
        raise UserError(
            f"--model: {model}: {NAMES[name]} has its logits whole; leave chunk out, or take llama_tiny"
        )
    if name == "hf_gpt2" and shape.groups != shape.heads:
        raise UserError(
            f"--model: {model}: GPT-2 has as many keys as queries; leave groups={shape.groups} out, or say "
            f"groups={shape.heads}"
        )


def build(name: str, shape: Shape) -> nn.Module:
    """The model, without dropout; it is given tokens (B, T) and returns logits (B, T, vocabulary)."""
    import transformers

    from bsr_explorer.models.language.loss import next_token_loss

    model: nn.Module
    if name == "hf_llama":
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.width,
                intermediate_size=shape.hidden,
                num_hidden_layers=shape.depth,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.groups,
                max_position_embeddings=shape.positions,
                use_cache=False,
                **EAGER,
            )
        )
    else:
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=shape.vocabulary,
                n_positions=shape.positions,
                n_embd=shape.width,
                n_layer=shape.depth,
                n_head=shape.heads,
                n_inner=shape.hidden,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=None,
                eos_token_id=None,
                tie_word_embeddings=False,
                use_cache=False,
                **EAGER,
            )
        )
    model.own_loss = next_token_loss  # type: ignore[assignment]
    return model
