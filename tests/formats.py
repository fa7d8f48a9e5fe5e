"""Number formats and ways to compute attention, for tests of one thing in each of them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

BY_DEFAULT = (("fp32", "fused"), ("amp_bf16", "math"))

WAYS: list[Any] = [
    pytest.param(*way, marks=[] if way in BY_DEFAULT else pytest.mark.slow)
    for way in product(("fp32", "amp_bf16", "amp_fp16", "bf16"), ("fused", "math"))
]
"""Precision and attention: every pair. Two that share nothing are tried by default, the others with ``-m slow``.
(Random configurations in all of them are what ``benchmarks/exactness.py`` compares.)"""

every_way = pytest.mark.parametrize(("precision", "attention"), WAYS)
