"""Profiles: what trains, how many tokens there are, how tensors are stored; the same for equal experiments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from bsr_explorer.config import Config
from bsr_explorer.methods import METHODS, Linear, Method, parse_method
from bsr_explorer.prediction import geometry_of
from bsr_explorer.search.features import Profile, Table, profile
from bsr_explorer.search.kernels import inputs
from bsr_explorer.search.space import Space
from bsr_explorer.search.surrogate import Surrogate
from bsr_explorer.store.study import Study
from bsr_explorer.tape import Parameter, Tape

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
    config = Config(toy, 48, method="full")
    seen = profile(config.with_method(parse_method(method, geometry_of(config))), 1e-3)
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


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(Linear):
    """The head, and a low-rank pair of matrices beside each chosen block's qkv: a method of somebody else's. (What its
    operations compute is of no account here.)"""

    rank: int = 4
    blocks: tuple[int, ...] = (0, 1, 2, 3)

    name: ClassVar[str] = "lora"

    def rewrite(self, tape: Tape) -> Tape:
        """Freeze, and add."""
        tape = super().rewrite(tape)
        more = [
            Parameter(f"blocks.{block}.attn.qkv.lora_{letter}.weight", shape, block)
            for block in self.blocks
            for letter, shape in (("a", (self.rank, 32)), ("b", (96, self.rank)))
        ]
        return replace(tape, parameters={**tape.parameters, **{p.name: p for p in more}})

    def canonical(self, depth: int) -> Method:
        """Itself."""
        return self


class Beside(LowRank):
    """The head, and a network of its own beside the backbone."""

    name: ClassVar[str] = "beside"

    def rewrite(self, tape: Tape) -> Tape:
        """Freeze, and add."""
        tape = Linear().rewrite(tape)
        side = Parameter("side.weight", (8, 8), None)
        return replace(tape, parameters={**tape.parameters, side.name: side})


def seen(method: str | Method) -> Profile:
    return profile(Config("toy", 48, method=method, batch_size=4), 1e-3)


PARTLY = ("bitfit", LowRank(), LowRank(16), LowRank(4, (0, 1)))


@pytest.mark.usefixtures("toy")
def test_what_trains_a_small_part_of_blocks_is_no_linear_probe() -> None:
    linear, *others = profiles = [seen("linear"), *(seen(method) for method in PARTLY)]
    assert linear.partly == seen("last(k=2)").partly == seen("full").partly == ""
    assert others[1].partly == others[2].partly == "attn.qkv.lora_a.weight attn.qkv.lora_b.weight"
    assert "mlp.fc1.bias" in others[0].partly.split()
    assert 0 < others[1].trained[0] < 0.06 < others[2].trained[0]
    assert others[3].trained[2:] == (0, 0)
    table = Table(4, profiles)
    assert table.partly == list(dict.fromkeys(each.partly for each in others))
    rows = inputs(table.rows(profiles), 4)
    lowest, height, ways = 1, 2, slice(-len(table.partly), None)
    assert rows[:, lowest].tolist() == [0, 1, 1, 1, 1]
    assert rows[0, height] == 1
    assert (rows[1:, height] < 1).all()
    assert rows[:, ways].tolist() == [[0, 0], [1, 0], [0, 1], [0, 1], [0, 1]]
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)


@pytest.mark.usefixtures("toy")
def test_a_surrogate_learns_what_small_parts_are_worth() -> None:
    methods = ["linear", *(f"last(k={k})" for k in (1, 2, 3)), *PARTLY, LowRank(2), LowRank(8)]
    profiles = [seen(method) for method in methods]
    rows = Table(4, profiles).rows(profiles)
    reached = np.array([0.5, 0.7, 0.75, 0.8, 0.79, 0.8, 0.81, 0.78, 0.79, 0.8])
    fitted = Surrogate.fit(rows[:-1], reached[:-1], np.zeros(len(rows) - 1), 4)
    mean, _ = fitted.predict(rows)
    assert abs(mean[-1] - reached[-1]) < 0.05  # a rank that was not tried
    assert mean[0] < 0.65


@pytest.mark.usefixtures("toy")
def test_what_trains_beside_the_backbone_is_seen() -> None:
    assert seen(Beside()).partly == "side.weight"
    assert seen(Beside()).trained == seen("linear").trained


def test_ways_to_store_have_a_column_each() -> None:
    plain = Profile((0, 0, 0, 0), (0, 0, 0, 0), False, 0.0, "", 0.0, 5.0)
    mesa = replace(plain, stored="mesa")
    table = Table(4, [mesa, plain, mesa])
    assert table.stored == ["", "mesa"]
    assert table.partly == []
    assert table.width == 2 * 4 + 4 + 2
    assert table.row(mesa)[-2:].tolist() == [0, 1]
    assert table.rows([]).shape == (0, table.width)


@pytest.mark.parametrize("model", ["toy", "moe_vit(toy, blocks=(3,), experts=4, top=2)"])
def test_drops_of_a_composed_method_are_seen_in_any_model(model: str) -> None:
    config = Config(model, 48, 10, 2)
    seen = profile(config.with_method("last(k=1)+evit(0.5)"), 1e-3)
    assert (
        seen.tokens
        == profile(config.with_method("last(k=1)+drop({1: 0.5, 2: 0.5, 3: 0.5}, fuse=True)"), 1e-3).tokens
    )
    assert min(seen.tokens) < 0 and seen.fused and not seen.scored
    loose = profile(config.with_method("last(k=1)+drop({2: 0.5}, fuse=False, criterion='norm')"), 1e-3)
    assert loose.scored and not loose.fused
