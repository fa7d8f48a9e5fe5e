"""The numbers of a decoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What a decoder is made of, which its name may change.

    Attributes:
        positions: tokens of the longest sequence, T.
        width, depth: D, and blocks.
        heads, groups: heads of queries, and of keys and values.
        hidden: width of SwiGLU.
        chunk: tokens whose logits are there at once, in the loss; None: those of all.
    """

    vocabulary: int
    positions: int
    width: int
    depth: int
    heads: int
    groups: int
    hidden: int
    chunk: int | None = None
