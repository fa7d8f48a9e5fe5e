"""Configurations as rows that a surrogate sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bsr_explorer.methods.composed import parts_of
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import Study
from tests.search.spaces import spaced

MakeStudy = Callable[..., Study]


def test_rows_of_a_pool_are_those_of_its_configurations(families: Space) -> None:
    near = [families.at(index) for index in (3, 120, 218)]
    pool = families.pool(np.random.default_rng(0), 60, near)
    candidates = [pool.at(row) for row in range(len(pool.rows))]
    assert np.allclose(families.rows(candidates), pool.rows)
    assert [(c.counted_bytes, c.train_flops) for c in candidates] == [tuple(c) for c in pool.costs.tolist()]
    assert len({candidate.key for candidate in candidates}) == len(candidates)


def test_bits_are_seen_in_their_order(make_study: MakeStudy) -> None:
    space = spaced(make_study, "bsr(blocks=(3,), keep={}, fuse=False)+mesa(faithful=True)")
    rows = space.rows([space.at(index) for index in range(3)])
    bits = [parts_of(space.at(index).config.how)[1].bits for index in range(3)]  # type: ignore[attr-defined]
    assert sorted(bits) == [2, 4, 8]
    assert rows[:, -1].tolist() == [{2: 0.0, 4: 0.5, 8: 1.0}[each] for each in bits]
    assert (rows[:, :-1] == rows[0, :-1]).all()  # and nothing else tells them apart
