"""Where a configuration stands among all of a space, and what lies around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.methods import Bsr
from bsr_explorer.prediction import counted_bytes
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import Study
from tests.search.spaces import SEVERAL, SMALL, sizes_of

MakeStudy = Callable[..., Study]


def test_there_is_as_much_at_each_batch_size(several: Space) -> None:
    each = sizes_of(several.at(index) for index in range(len(several.grids[0])))
    assert each == dict.fromkeys(SEVERAL, len(several.grids[0]) // 3)


@pytest.mark.parametrize("size", SEVERAL)
def test_a_sample_may_have_any_batch_size(several: Space, size: int) -> None:
    generator = np.random.default_rng(0)
    drawn = [several.sample(generator, 0, 1e12) for _ in range(100)]
    each = sizes_of(candidate for candidate in drawn if candidate is not None)
    assert each[size] > 10
    assert sizes_of(several.each(generator))[size] > 10


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_sample_fits_and_lies_in_its_range(small: Space, seed: int, low: float, high: float) -> None:
    least, most = small.range_bytes
    low, high = (least + share * (most - least) for share in (low, high))
    candidate = small.sample(np.random.default_rng(seed), low, high)
    if candidate is None:
        sizes = enumerated_sizes(small)
        assert not any(low <= size <= min(high, 1_100_000) for size in sizes)
    else:
        assert low <= candidate.counted_bytes <= high
        assert small.fits(candidate)
        assert candidate.counted_bytes == counted_bytes(candidate.config, "peak")


def enumerated_sizes(space: Space) -> list[int]:
    return [space.at(index).counted_bytes for index in range(len(space.grids[0]))]


def test_every_number_of_blocks_is_sampled_as_often(make_study: MakeStudy) -> None:
    space = Space(make_study(space=replace(SMALL, max_blocks=4), budget="1GB"))
    generator = np.random.default_rng(0)
    drawn = [space.sample(generator, 0, 1e9) for _ in range(500)]
    methods = [c.config.how for c in drawn if c is not None]
    counts = np.bincount([len(method.blocks) for method in methods if isinstance(method, Bsr)])
    assert counts.sum() == 500
    assert len(counts) == 5
    assert counts.min() > 60
