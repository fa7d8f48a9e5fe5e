"""The table behind a grid: schedules, states of blocks, what stands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.cost.entries import (
    Runs,
    input_bytes_of,
    rounded_to_blocks,
    schedule,
    states_of_blocks,
)
from bsr_explorer.cost.setup import Setup
from bsr_explorer.models.vit.reading import geometry


def test_a_schedule_is_sorted_and_drops_what_keeps_everything() -> None:
    assert schedule({9: 0.5, 6: 1.0, 3: 0.25}, True) == (((3, 0.25), (9, 0.5)), True)
    assert schedule({6: 1.0}, True) == schedule({}, False) == ((), False)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_state_of_a_block_is_whether_it_trains_and_whether_a_gradient_goes_on_below(
    mask: list[bool],
) -> None:
    (states,) = states_of_blocks(np.array([mask]))
    assert states.tolist() == [2 * any(mask[:block]) + trains for block, trains in enumerate(mask)]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_inputs_are_the_images_and_labels_of_all_micro_batches(micro_batches: int) -> None:
    runs = Runs(setup=Setup(micro_batches=micro_batches))
    assert input_bytes_of(geometry("deit_t", 32), 4, runs) == 4 * (3 * 32 * 32 * 4 + 8)


def test_sizes_are_rounded_up_as_the_device_does() -> None:
    assert [rounded_to_blocks(513, Runs(setup=Setup(device=device))) for device in ("cpu", "cuda")] == [
        513,
        1024,
    ]
