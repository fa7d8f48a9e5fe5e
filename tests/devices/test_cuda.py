"""CUDA: which attention runs, and what the allocator hands out."""

from __future__ import annotations

import pytest

from bsr_explorer.devices import CPU, CUDA


@pytest.mark.parametrize(("dtype", "path"), [("fp32", "efficient"), ("fp16", "flash"), ("bf16", "flash")])
def test_the_fused_kernel_follows_from_the_format(dtype: str, path: str) -> None:
    assert CUDA.path("fused", dtype) == path
    assert CUDA.path("math", dtype) == "math"


def test_it_hands_out_pieces_of_512_bytes() -> None:
    assert [CUDA.rounded(size) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]


def test_the_workspace_is_that_of_cublas_in_whole_pieces() -> None:
    assert CUDA.workspace == CUDA.rounded(CUDA.workspace) > 8 * 2**20


def test_what_the_cpu_runs_it_runs_too() -> None:
    assert set(CPU.attention) < set(CUDA.attention)
