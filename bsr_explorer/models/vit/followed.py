"""What becomes of each patch in a vision transformer that drops or merges tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from bsr_explorer.models.base import SAID, Followed
from bsr_explorer.models.vit.drop import TokenDrop
from bsr_explorer.models.vit.merge import TokenMerge
from bsr_explorer.naming import blocks_of


@torch.no_grad()
def follow_tokens(model: nn.Module, images: torch.Tensor, at_random: bool = False) -> list[Followed]:
    """See ``Architecture.follow_tokens``. The model is left as it was."""
    found: list[Followed] = []
    with _in_evaluation(model), _seen(model, found, at_random):
        model(images)
    return found


@contextmanager
def all_tokens(model: nn.Module) -> Iterator[None]:
    """See ``Architecture.all_tokens``."""
    parts = [part for part in model.modules() if isinstance(part, (TokenDrop, TokenMerge))]
    for part in parts:
        part.forward = _no_drop if isinstance(part, TokenDrop) else _no_merge  # type: ignore[method-assign]
    try:
        yield
    finally:
        for part in parts:
            del part.forward
            part._qkv = None


def _no_drop(x: torch.Tensor, explicit: bool) -> torch.Tensor:
    return x


def _no_merge(x: torch.Tensor, sizes: torch.Tensor | None) -> tuple[torch.Tensor, None]:
    return x, None


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _seen(model: nn.Module, found: list[Followed], at_random: bool) -> Iterator[None]:
    parts = [
        (index, part)
        for index, block in enumerate(blocks_of(model))
        for part in block.modules()
        if isinstance(part, (TokenDrop, TokenMerge))
    ]
    drops = [(part, part.selection) for _, part in parts if isinstance(part, TokenDrop)]
    for drop, selection in drops:
        drop.selection = replace(selection, criterion="random", faithful=False) if at_random else selection
    for index, part in parts:
        by = SAID[part.selection.criterion] if isinstance(part, TokenDrop) else None
        part.seen = partial(_follow, found, index, by)
    try:
        yield
    finally:
        for _, part in parts:
            part.seen = None
        for drop, selection in drops:
            drop.selection = selection


def _follow(found: list[Followed], block: int, by: str | None, now: torch.Tensor) -> None:
    """``now``: the place of each token of before, (B, N)."""
    if found:  # patches are where the tokens are that they were in
        before = found[-1].places
        now = torch.where(before < 0, -1, now.gather(1, before.clamp(min=0)))
    found.append(Followed(block, by, now))
