"""The CUDA allocator's record of what it did."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.measurement.history import changes, changes_during


def test_takes_and_frees_are_read_in_order() -> None:
    events = [
        {"action": "alloc", "size": 1024, "addr": 1},
        {"action": "segment_alloc", "size": 2**21, "addr": 1},
        {"action": "alloc", "size": 512, "addr": 2},
        {"action": "free_requested", "size": 1024, "addr": 1},
        {"action": "free_completed", "size": 1024, "addr": 1},
        {"action": "snapshot", "size": 0},
    ]
    assert changes(events) == [1024, 512, -1024]


@pytest.mark.gpu
def test_a_call_on_a_gpu() -> None:
    made = changes_during(lambda: torch.zeros(2**20, device="cuda"))
    assert made == [2**22, -(2**22)]
