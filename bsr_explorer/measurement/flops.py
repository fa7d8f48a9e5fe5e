"""FLOPs as they are computed: torch's counter, guarded, and fvcore's as a second opinion."""

from __future__ import annotations

import logging
import warnings
from bisect import bisect_right
from collections import Counter
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bsr_explorer.counting import OURS, is_uncounted
from bsr_explorer.naming import naming_of
from bsr_explorer.units import FLOPS_PER_MAC


def counter() -> FlopCounterMode:
    """torch's FLOP counter, 2 FLOPs a multiply-add.

    Where its formulas lack, or are wrong, ours are taken (``counting.OURS``).
    """
    return FlopCounterMode(display=False, custom_mapping=dict(OURS))


_autograd: Any = torch.autograd


class ByBlock:
    """Tells by which block of a model something is computed: in the forward pass, and when a block runs again, by the
    module that runs; in the backward pass by the autograd node, which has the number of when it was made.

    Args:
        model: its blocks are watched within the context.
    """

    def __init__(self, model: nn.Module) -> None:
        naming = naming_of(model)
        self._blocks = [
            (block, module)
            for name, module in model.named_modules()
            if (block := naming.block_of(name)) is not None and not naming.in_block(name)
        ]
        self._running: list[int | None] = [None]
        self._since: list[tuple[int, int | None]] = [(0, None)]
        self._hooks: list[Any] = []

    def __enter__(self) -> ByBlock:
        for block, module in self._blocks:
            self._hooks.append(module.register_forward_pre_hook(partial(self._begin, block)))
            self._hooks.append(module.register_forward_hook(self._end, always_call=True))
        return self

    def __exit__(self, *args: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, block: int, *args: Any) -> None:
        self._running.append(block)
        self._note()

    def _end(self, *args: Any) -> None:
        self._running.pop()
        self._note()

    def _note(self) -> None:
        if not _in_backward():
            self._since.append((_autograd._get_sequence_nr(), self._running[-1]))

    @property
    def now(self) -> int | None:
        """The block (0-based), or None: outside of all."""
        node = torch._C._current_autograd_node() if _in_backward() else None
        if node is None or self._running[-1] is not None:
            return self._running[-1]
        return self._since[bisect_right(self._since, node._sequence_nr(), key=itemgetter(0)) - 1][1]


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


class Uncounted(TorchDispatchMode):
    """Notes the operations that multiply matrices and have no FLOP formula; and of those that have, in which block they
    were computed. It must be entered before the counter is.

    Args:
        where: tells blocks apart.
    """

    def __init__(self, counter: FlopCounterMode, where: ByBlock | None = None) -> None:
        super().__init__()
        self._counter, self._where = counter, where
        self.names: set[str] = set()
        self._found: Counter[int | None] = Counter()
        self._last: int | None = None
        self._seen = 0

    def by_block(self) -> Counter[int | None]:
        """FLOPs since it was last asked, by block."""
        self._count(None)
        found, self._found = self._found, Counter()
        return found

    def _count(self, block: int | None) -> None:
        """What was counted since the last operation was that one's; the next is one of this block."""
        self._found[self._last] += self._counter.get_total_flops() - self._seen
        self._seen, self._last = self._counter.get_total_flops(), block

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._where is not None:
            self._count(self._where.now)
        if is_uncounted(func._overloadpacket):
            self.names.add(str(func._overloadpacket))
        return func(*args, **(kwargs or {}))


def second_opinion(model: nn.Module, images: torch.Tensor) -> tuple[int, dict[str, int]]:
    """fvcore's count of the forward pass, and what it did not see.

    Returns:
        FLOPs (fvcore's multiply-adds, doubled), and how often each operation without a formula ran.
    """
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():  # fvcore traces with what torch is about to leave behind
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, images)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(analysis.total()) * FLOPS_PER_MAC, dict(analysis.unsupported_ops())
