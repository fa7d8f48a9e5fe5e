"""Live storages, followed by hand through a few lines."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.measurement.peak import LiveStorages
from bsr_explorer.run import measure


def test_a_peak_is_what_lives_at_once() -> None:
    x = torch.zeros(100)
    with LiveStorages([x]) as live:
        a = x + 1
        b = a * 2
        del a
        c = b + 1
        assert live.bytes == 3 * 400  # x, b, c
        del b, c
    assert (live.bytes, live.peak_bytes) == (400, 3 * 400)


def test_a_peak_stays_when_memory_is_freed() -> None:
    x = torch.zeros(100)
    with LiveStorages([x]) as live:
        y = torch.cat([x, x])
        del y
        y = x + 1
        del y
    assert (live.bytes, live.peak_bytes) == (400, 400 + 800)


def test_views_and_in_place_operations_add_nothing() -> None:
    x = torch.zeros(100)
    with LiveStorages([x]) as live:
        views = [x[:10], x.view(10, 10).T, x.add_(1)]
    assert live.peak_bytes == 400
    assert len(views) == 3


def test_tensors_that_stand_already_count_once_a_storage() -> None:
    x = torch.zeros(100)
    assert LiveStorages([x, x[:5], torch.zeros(7)]).peak_bytes == 400 + 28


def test_what_a_graph_holds_is_alive_until_backward() -> None:
    x = torch.zeros(100, requires_grad=True)
    with LiveStorages([x]) as live:
        loss = x.exp().sum()  # the graph keeps the exponential
        assert live.bytes == 400 + 400 + 4
        loss.backward()
        del loss
        assert live.bytes == 400 + 400  # the parameter and its gradient


def test_a_storage_counts_until_its_last_tensor_is_gone() -> None:
    with LiveStorages([]) as live:
        x = torch.zeros(100)
        part = x[:1]
        del x
        assert live.bytes == 400
        del part
        assert live.bytes == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_the_allocator_tells_the_peak() -> None:
    """At least what stands and what is saved. (The allocator's peak also holds cuBLAS's workspace.)"""
    step = measure(Config("deit_t", image_size=64, batch_size=8, method="full"), device="cuda")
    assert step.peak_is == "allocator"
    standing = step.parameter_bytes + step.optimizer_bytes + step.input_bytes
    assert step.peak_bytes >= standing + step.saved_bytes
    assert step.peak_bytes <= 2 * step.held_bytes
