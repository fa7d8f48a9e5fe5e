"""The most memory alive at once, as the allocator saw it: torch's profiler records what it hands out.

On the CPU torch has no memory statistics, but its profiler notes each allocation and each free. What one
kernel takes and gives back within a single call (its scratch) depends on the machine, its threads and its
libraries; it is told apart from the tensors that operators hand to each other, which are the same
everywhere.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library reports its starts and stops


@dataclass(frozen=True)
class Highest:
    """The highest level during a call, in bytes above its beginning.

    Attributes:
        tensors: counting tensors only.
        allocator: counting the scratch of kernels too.
        end: what is still there when the call returns.
    """

    tensors: int
    allocator: int
    end: int


@dataclass(frozen=True)
class _Change:
    time: int
    size: int
    address: int
    within: tuple[Any, ...]


def highest_on_cpu(call: Callable[[], object]) -> Highest:
    """Run a call and follow the CPU allocator; memory of before that is freed meanwhile does not count.

    Garbage is not collected meanwhile, or the end of an earlier call's would be taken for this one's.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            call()
    finally:
        if collects:
            gc.enable()
    changes = _of_the_call(sorted(_changes(profiled), key=lambda change: change.time))
    scratch = _scratch(changes)
    level = tensors = highest = highest_tensors = 0
    for index, change in enumerate(changes):
        level += change.size
        highest = max(highest, level)
        if index not in scratch:
            tensors += change.size
            highest_tensors = max(highest_tensors, tensors)
    return Highest(highest_tensors, highest, level)


def _changes(profiled: Any) -> Iterator[_Change]:
    """Allocations (positive) and frees (negative), each with the operators that it happened in."""

    def visit(event: Any, within: tuple[Any, ...]) -> Iterator[_Change]:
        fields = event.extra_fields
        if type(fields).__name__ == "_ExtraFields_Allocation":
            if fields.device.type == "cpu":
                yield _Change(event.start_time_ns, fields.alloc_size, fields.ptr, within)
            return
        if type(fields).__name__ == "_ExtraFields_TorchOp":
            within = (*within, event)
        for child in event.children:
            yield from visit(child, within)

    for root in profiled.profiler.kineto_results.experimental_event_tree():
        yield from visit(root, ())


def _of_the_call(changes: list[_Change]) -> list[_Change]:
    """Without the frees of what was allocated before the record began (of which it knows only some)."""
    there: set[int] = set()
    mine = []
    for change in changes:
        if change.size > 0:
            there.add(change.address)
        elif change.address not in there:
            continue
        else:
            there.remove(change.address)
        mine.append(change)
    return mine


def _scratch(changes: list[_Change]) -> set[int]:
    """Which changes are a kernel's own: freed within the same call of it that allocated them."""
    open_at: dict[int, int] = {}
    found: set[int] = set()
    for index, change in enumerate(changes):
        if change.size > 0:
            open_at[change.address] = index
        elif change.address in open_at:
            first = open_at.pop(change.address)
            shared = _innermost_shared(changes[first].within, change.within)
            if shared is not None and _is_kernel(shared):
                found |= {first, index}
    return found


def _innermost_shared(a: tuple[Any, ...], b: tuple[Any, ...]) -> Any:
    shared = None
    for one, other in zip(a, b, strict=False):
        if one is not other:
            break
        shared = one
    return shared


def _is_kernel(event: Any) -> bool:
    """Whether an operator is a kernel: not composed of others, and not autocast's wrapper around itself."""
    if not event.name.startswith("aten::") or _is_composite(event.name):
        return False
    return not any(child.name == event.name for child in event.children)


@lru_cache(maxsize=1024)
def _is_composite(name: str) -> bool:
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    overloads = packet.overloads() if packet is not None else []
    names = [name if overload == "default" else f"{name}.{overload}" for overload in overloads]
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(full, "CompositeImplicitAutograd")
        for full in names
        if torch._C._dispatch_has_kernel(full)  # some exist for TorchScript only
    )
