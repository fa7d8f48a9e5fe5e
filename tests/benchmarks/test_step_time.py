"""The step-time benchmark compares a method with full fine-tuning in pairs."""

from __future__ import annotations

import pytest

from benchmarks import step_time
from bsr_explorer import Config


def test_ratios_of_full_to_itself_are_one_but_for_time() -> None:
    full = Config("deit_t", 32, batch_size=2, method="full")
    row = step_time.compare(full, full, 1)
    assert row["saved"] == row["peak"] == row["published_32"] == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bsr_holds_less_than_full(precision: str) -> None:
    full = Config("deit_t", 64, batch_size=2, precision=precision, method="full")
    row = step_time.compare(full, full.with_method("bsr"), 1)
    assert min(float(str(row[key])) for key in ("saved", "peak", "published_32")) > 1.5
