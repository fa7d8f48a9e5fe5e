"""Number formats, for tests of one thing in each of them."""

from __future__ import annotations

from typing import Any

import pytest

SOME: list[Any] = [
    "fp32",
    "amp_bf16",
    pytest.param("amp_fp16", marks=pytest.mark.slow),
    pytest.param("bf16", marks=pytest.mark.slow),
]
"""All of them; of casts and of weights in 16 bits one each is tried by default, the others with ``-m slow``. (Random
configurations in all four are what ``benchmarks/exactness.py`` compares.)"""
