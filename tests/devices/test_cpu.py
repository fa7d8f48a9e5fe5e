"""The CPU: which attention runs, and what the allocator hands out."""

from __future__ import annotations

import pytest

from bsr_explorer.devices import CPU


@pytest.mark.parametrize(("dtype", "path"), [("fp32", "fused"), ("bf16", "fused"), ("fp16", "fused")])
def test_the_fused_kernel_follows_from_the_format(dtype: str, path: str) -> None:
    assert CPU.path("fused", dtype) == path
    assert CPU.path("math", dtype) == "math"


def test_it_hands_out_what_is_asked_for_and_takes_nothing_itself() -> None:
    assert ([CPU.rounded(size) for size in (0, 1, 513)], CPU.workspace) == ([0, 1, 513], 0)
