"""What the caching allocator did, from torch's own record of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

_MOST = 2_000_000
"""Events that are recorded at most."""


def changes_during(run: Callable[[], object]) -> list[int]:
    """Bytes that a call takes from the CUDA allocator (> 0) and gives back (< 0), in order."""
    torch.cuda.synchronize()
    torch.cuda.memory._record_memory_history(max_entries=_MOST, stacks="python")
    try:
        run()
        torch.cuda.synchronize()
        snapshot = torch.cuda.memory._snapshot()
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    return changes(snapshot["device_traces"][torch.cuda.current_device()])


def changes(events: Iterable[Mapping[str, Any]]) -> list[int]:
    """The changes that a record of one device holds.

    A block counts as freed when that is asked for: nothing else may be waited for on a single stream.

    Args:
        events: ``device_traces`` of a snapshot: dictionaries with ``action`` and ``size``.
    """
    signs = {"alloc": 1, "free_requested": -1}
    return [signs[event["action"]] * event["size"] for event in events if event["action"] in signs]
