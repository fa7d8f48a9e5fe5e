"""Profiles: what trains, how many tokens there are, how tensors are stored; the same for equal experiments."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from bsr_explorer.config import Config
from bsr_explorer.methods import METHODS
from bsr_explorer.search.features import Table, profile
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import Study

MakeStudy = Callable[..., Study]


def of(method: str, **more: object) -> object:
    return profile(Config("toy", 48, method=method, batch_size=4, **more), 1e-3)  # type: ignore[arg-type]


def test_blocks_tokens_and_storage(toy: str) -> None:
    seen = profile(
        Config(toy, 48, method="bsr(blocks=(1, 3), keep={1: 0.5}, fuse=True)+mesa", batch_size=8), 1e-3
    )
    assert seen.trained == (0, 1, 0, 1)
    whole, dropped = 10, 1 + 5 + 1  # 9 patches and the class token; 5 of them, and the fused
    assert seen.tokens == pytest.approx((0, *[math.log2(dropped / whole)] * 3))
    assert (seen.fused, seen.below, seen.lr, seen.batch) == (True, 0, 0, 3)
    assert seen.stored.startswith("mesa")


def test_full_trains_below_the_blocks_too(toy: str) -> None:
    full = profile(Config(toy, 48, method="full"), 1e-3)
    assert full.trained == (1, 1, 1, 1)
    assert full.below == 1
    assert profile(Config(toy, 48, method="last(k=4)"), 1e-3).below == 0
    bitfit = profile(Config(toy, 48, method="bitfit"), 1e-3)
    assert all(0 < share < 0.1 for share in bitfit.trained)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_profile(toy: str, method: str) -> None:
    seen = profile(Config(toy, 48, method=method if method != "bsr" else "bsr(blocks=(1,), keep={})"), 1e-3)
    assert len(seen.trained) == len(seen.tokens) == 4
    assert all(0 <= share <= 1 for share in seen.trained)


@pytest.mark.parametrize("elsewhere", ["checkpoint", "offload"])
def test_what_changes_no_accuracy_changes_no_profile(toy: str, elsewhere: str) -> None:
    assert of(f"last(k=2)+{elsewhere}") == of("last(k=2)")
    assert of(elsewhere) == of("full")


def test_the_learning_rate_counts_beside_the_recipes(toy: str) -> None:
    assert profile(Config(toy, 48, method="last(k=2)", lr=4e-3), 1e-3).lr == pytest.approx(math.log(4))


def test_equal_experiments_have_equal_profiles(toy: str) -> None:
    assert of("last(k=2)") == of("bsr(blocks=(2, 3), keep={}, fuse=True)")


def test_rows_of_a_pool_are_those_of_its_configurations(make_study: MakeStudy) -> None:
    space = Space(make_study(budget="2MB"))
    pool = space.pool(np.random.default_rng(0), 60, space.known[1:3])
    assert len(pool.rows) >= 60
    candidates = [pool.at(row) for row in range(len(pool.rows))]
    assert np.allclose(space.rows(candidates), pool.rows)
    assert [(c.counted_bytes, c.train_flops) for c in candidates] == [
        tuple(cost) for cost in pool.costs.tolist()
    ]
    assert all(space.fits(candidate) for candidate in candidates)
    assert len({candidate.key for candidate in candidates}) == len(candidates)


def test_ways_to_store_have_a_column_each() -> None:
    table = Table(4, ["mesa", "", "mesa"])
    assert table.stored == ["", "mesa"]
    assert table.width == 2 * 4 + 4 + 2
    assert table.rows([]).shape == (0, table.width)
