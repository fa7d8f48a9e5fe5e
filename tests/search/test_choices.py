"""What a sampler chooses among: the stratum of memory that has been tried least comes first."""

from __future__ import annotations

import numpy as np
import pytest

from bsr_explorer.search.choices import STRATA, from_strata
from bsr_explorer.search.space import Space


def edges(space: Space) -> np.ndarray:
    low, high = min(space.budget_bytes, space.range_bytes[0]), min(space.budget_bytes, space.range_bytes[1])
    return np.geomspace(low, high + 1, STRATA + 1)


@pytest.mark.parametrize("left", range(STRATA))
def test_the_stratum_that_was_tried_least_is_next(small: Space, left: int) -> None:
    ends = edges(small)
    middles = np.sqrt(ends[1:] * ends[:-1])
    tried = [size for stratum, size in enumerate(middles) if stratum != left]
    candidate = from_strata(small, tried, set(), np.random.default_rng(0))
    assert candidate is not None
    filled = [
        stratum
        for stratum in range(STRATA)
        if any(
            ends[stratum] - 1 <= c.counted_bytes <= ends[stratum + 1] + 1 and small.fits(c)
            for c in small.each(np.random.default_rng(1))
        )
    ]
    if left in filled:
        assert ends[left] - 1 <= candidate.counted_bytes <= ends[left + 1] + 1


def test_all_come_once_and_then_nothing(small: Space) -> None:
    fitting = {candidate.key for candidate in small.each(np.random.default_rng(0))}
    done: set[str] = set()
    sizes: list[float] = []
    generator = np.random.default_rng(0)
    while (candidate := from_strata(small, sizes, done, generator)) is not None:
        assert candidate.key not in done
        assert small.fits(candidate)
        done.add(candidate.key)
        sizes.append(candidate.counted_bytes)
    assert done == fitting
    assert len(done) == small.fitting
