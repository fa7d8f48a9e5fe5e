"""A decoder as Llama has it: RMSNorm, rotary positions, grouped queries, SwiGLU, no biases.

Layers have timm's names (``attn.qkv``, ``attn.proj``, ``mlp.fc1``, ``mlp.fc2``), so that methods find them: queries,
keys and values are one product, and the gate and the other half of SwiGLU, too, as in timm's ``SwiGLUPacked``.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsr_explorer.models.language.loss import chunked_loss, next_token_loss
from bsr_explorer.models.language.shape import Shape

BASE = 10_000.0
"""Of the angles of rotary positions."""


class Decoder(nn.Module):
    """Tokens (B, T) to the logits of each next one (B, T, vocabulary); in training with a loss in chunks, to what the
    head takes, (B, T, D)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.RMSNorm(shape.width, eps=1e-5)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        cos, sin = angles(shape.positions, shape.width // shape.heads, BASE)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.chunk = shape.chunk
        self.own_loss = (
            next_token_loss if shape.chunk is None else partial(chunked_loss, self.head, shape.chunk)
        )
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """See above."""
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]  # type: ignore[index]
        x: Tensor = self.embed(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        x = self.norm(x)
        if self.training and self.chunk is not None:
            return x
        logits: Tensor = self.head(x)
        return logits


class Block(nn.Module):
    """x + attn(norm1(x)), and to that mlp(norm2(·))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(shape.width, eps=1e-5)
        self.attn = Attention(shape)
        self.norm2 = nn.RMSNorm(shape.width, eps=1e-5)
        self.mlp = SwiGLU(shape.width, shape.hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, D) → the same; of the angles of positions see ``angles``."""
        x = x + self.attn(self.norm1(x), cos, sin)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Attention(nn.Module):
    """Causal attention with fewer heads of keys and values than of queries.

    Attributes:
        fused_attn: whether torch's kernel runs, or an explicit softmax (``models.vit.attention_path``).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.groups, self.size = shape.heads, shape.groups, shape.width // shape.heads
        self.qkv = nn.Linear(shape.width, (shape.heads + 2 * shape.groups) * self.size, bias=False)
        self.proj = nn.Linear(shape.width, shape.width, bias=False)
        self.fused_attn = True

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, D) → the same."""
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, -1, self.size).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.groups, self.groups], dim=1)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.groups < self.heads)
        else:
            each = self.heads // self.groups
            k, v = k.repeat_interleave(each, dim=1), v.repeat_interleave(each, dim=1)
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = (q * self.size**-0.5) @ k.transpose(-2, -1)
            x = scores.masked_fill(later, float("-inf")).softmax(dim=-1) @ v
        out: Tensor = self.proj(x.transpose(1, 2).reshape(batch, length, -1))
        return out


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys (B, H, T, d), each pair of channels turned by its position; see ``angles``."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def angles(positions: int, size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (Su et al., arXiv 2104.09864), (positions, size / 2) each."""
    rates = base ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    turned = torch.arange(positions, dtype=torch.float32)[:, None] * rates
    return turned.cos(), turned.sin()


class SwiGLU(nn.Module):
    """fc2(silu(gate) · value), of which fc1 makes both (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → the same."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        out: Tensor = self.fc2(F.silu(gate) * value)
        return out
