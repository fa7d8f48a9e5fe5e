"""ATen's reductions on a GPU. (Sizes were recorded on an H200: bias gradients of DeiT-S, DeiT-T and ViT-B.)"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.devices.gpus import GPUS
from bsr_explorer.devices.reductions import sum_of_columns

H200 = GPUS["h200"]


@pytest.mark.parametrize(
    ("rows", "columns", "scratch", "semaphores"),
    [
        (6304, 384, 19_464_192, 12),
        (6304, 1536, 77_856_768, 48),
        (6304, 1152, 58_392_576, 36),
        (1664, 1536, 20_447_232, 48),
        (25216, 768, 138_412_032, 24),
        (25216, 2304, 139_198_464, 72),
        (1576, 576, 7_372_800, 20),
        (32, 75_648, 0, 0),
    ],
)
def test_scratch_as_recorded(rows: int, columns: int, scratch: int, semaphores: int) -> None:
    assert sum_of_columns(rows, columns, H200) == (scratch, semaphores)


@given(st.integers(1, 100_000), st.integers(1, 10_000), st.sampled_from(sorted(GPUS)))
def test_scratch_is_whole_rows_of_results(rows: int, columns: int, name: str) -> None:
    scratch, semaphores = sum_of_columns(rows, columns, GPUS[name])
    assert (scratch == 0) == (semaphores == 0)
    assert scratch % (4 * columns) == 0
    assert semaphores % 4 == 0
    assert scratch <= 4 * columns * 128 * rows


@given(st.integers(1, 100_000), st.integers(1, 10_000))
def test_no_card_takes_more_for_fewer_multiprocessors(rows: int, columns: int) -> None:
    few, many = (sum_of_columns(rows, columns, GPUS[name])[0] for name in ("orin", "a100"))
    assert few <= many or GPUS["orin"].threads != GPUS["a100"].threads
