"""A block that runs again in backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bsr_explorer.naming import blocks_of
from bsr_explorer.storages.keeper import thrown_away


def checkpoint_block(model: nn.Module, block: int) -> None:
    """Let a block (0-based) keep its input only, and run again in backward, in place.

    What is random in how it packs tensors serves backward only, and nothing is packed in the first run. A block that
    draws numbers otherwise (dropout, a noisy gate) draws the same ones again: it begins both times from a seed that is
    drawn for it, so that no state of a random generator is kept.
    """
    module = cast(Any, blocks_of(model)[block])
    module.forward = partial(
        checkpoint,
        module.forward,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=partial(_contexts, module),
    )


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Of the first run, and of the second."""
    if not (module.training and draws(module)):
        return thrown_away(), nullcontext()
    seed = int(torch.randint(_SEEDS, ()).item())
    return _both(thrown_away(), _begun_at(seed)), _begun_at(seed, then=seed ^ _OTHER)


_SEEDS, _OTHER = 2**62, 0x5DEECE66D


@contextmanager
def _both(one: AbstractContextManager[object], other: AbstractContextManager[object]) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(one)
        stack.enter_context(other)
        yield


@contextmanager
def _begun_at(seed: int, then: int | None = None) -> Iterator[None]:
    """Within it random numbers begin at a seed; afterwards they go on, or begin at another one. (After the second run
    they must: what was drawn after the first would come again.)"""
    torch.manual_seed(seed)
    try:
        yield
    finally:
        if then is not None:
            torch.manual_seed(then)


def draws(module: nn.Module) -> bool:
    """Whether something of a module is random in training: its ``draws``, or the rate of a dropout."""
    return any(
        getattr(each, "draws", False)
        or (isinstance(each, nn.modules.dropout._DropoutNd) and each.p > 0)
        or bool(getattr(each, "drop_prob", 0.0))  # timm's drop path
        for each in module.modules()
    )
