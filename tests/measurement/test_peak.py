"""The allocator's record, followed by hand through a few lines."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.measure import measure
from bsr_explorer.measurement.peak import Highest, highest_on_cpu


def _highest(call: Callable[[torch.Tensor], object]) -> Highest:
    """Of a call that is given 100 numbers in 400 bytes."""
    x = torch.zeros(100)
    return highest_on_cpu(lambda: call(x))


def test_a_peak_is_what_lives_at_once() -> None:
    def call(x: torch.Tensor) -> None:
        a = torch.cat([x, x])
        b = torch.cat([a, a])
        del a
        torch.cat([b[:100], x])

    assert _highest(call) == Highest(tensors=1600 + 800, allocator=1600 + 800, end=0)


def test_what_is_left_is_said() -> None:
    left: list[torch.Tensor] = []
    assert _highest(lambda x: left.append(torch.cat([x, x]))) == Highest(800, 800, 800)


def test_views_and_in_place_operations_add_nothing() -> None:
    assert _highest(lambda x: (x[:10], x.view(10, 10).T, x.relu_())).tensors == 0


def test_a_storage_counts_until_its_last_tensor_is_gone() -> None:
    def call(x: torch.Tensor) -> None:
        part = torch.cat([x, x])[:1]
        torch.cat([x, x, x])
        del part

    assert _highest(call).tensors == 800 + 1200


def test_what_a_graph_holds_is_alive_until_backward() -> None:
    x = torch.zeros(100, requires_grad=True)

    def call() -> None:
        loss = x.exp().sum()  # the graph keeps the exponential
        loss.backward()

    highest = highest_on_cpu(call)
    assert 400 + 400 <= highest.tensors <= 400 + 400 + 400 + 16  # the gradient of the sum is expanded
    assert highest.end == 400  # the gradient


def test_the_scratch_of_a_kernel_is_told_apart() -> None:
    """Adding numbers of two formats, the kernel makes a copy of one of them for itself."""
    narrow = torch.zeros(100, dtype=torch.bfloat16)
    highest = _highest(lambda x: x + narrow)
    assert highest.tensors == 400
    assert highest.allocator > highest.tensors


def test_a_cast_of_autocast_is_a_tensor_and_no_scratch() -> None:
    layer = torch.nn.Linear(100, 7, bias=False).requires_grad_(False)

    def call(x: torch.Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            layer(x.view(1, 100))

    assert _highest(call).tensors == 2 * (700 + 100 + 7)


def test_memory_of_before_that_is_freed_meanwhile_does_not_count() -> None:
    old = [torch.zeros(1000)]

    def call(x: torch.Tensor) -> None:
        old.clear()
        torch.cat([x, x])

    assert _highest(call) == Highest(tensors=800, allocator=800, end=0)


def test_garbage_is_not_collected_meanwhile() -> None:
    cycle: list[object] = [torch.zeros(1000)]
    cycle.append(cycle)
    del cycle
    assert _highest(lambda x: torch.cat([x, x])).tensors == 800
    assert gc.isenabled()


@pytest.mark.gpu
def test_on_cuda_what_was_there_before_does_not_count() -> None:
    """Two models in a row, the larger one first."""
    small = Config("deit_t", image_size=64, batch_size=8, method="linear", device="cuda")
    alone = measure(small)
    measure(Config("deit_s", image_size=224, batch_size=8, method="full", device="cuda"))
    left = torch.zeros(10**7, device="cuda")
    after = measure(small)
    assert len(left) == 10**7
    assert after.peak_bytes == pytest.approx(alone.peak_bytes, abs=2**21)
    assert after.reserved_bytes == pytest.approx(alone.reserved_bytes, abs=2**21)


@pytest.mark.gpu
def test_on_cuda_the_allocator_tells_the_peak() -> None:
    """At least what stands and what is saved. (The allocator's peak also holds cuBLAS's workspace.)"""
    step = measure(Config("deit_t", image_size=64, batch_size=8, method="full", device="cuda"))
    assert step.peak_is == "allocator"
    standing = step.parameter_bytes + step.optimizer_bytes + step.input_bytes
    assert step.peak_bytes >= standing + step.saved_bytes
    assert step.reserved_bytes >= step.peak_bytes
