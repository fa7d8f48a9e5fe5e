"""A block that runs again in backward."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any, cast

from torch import nn
from torch.utils.checkpoint import checkpoint

from bsr_explorer.naming import blocks_of
from bsr_explorer.storages.keeper import thrown_away


def checkpoint_block(model: nn.Module, block: int) -> None:
    """Let a block (0-based) keep its input only, and run again in backward, in place.

    What is random in it, the rounding of packed tensors, serves backward only, so that no state of a random
    generator is kept; and nothing is packed in the first run.
    """
    module = cast(Any, blocks_of(model)[block])
    module.forward = partial(
        checkpoint,
        module.forward,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (thrown_away(), nullcontext()),
    )
