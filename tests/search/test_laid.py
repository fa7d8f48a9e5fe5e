"""Families that are laid out: what adds up over blocks costs what is predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bsr_explorer.config import ONLY_GPUS
from bsr_explorer.models.architecture import geometry
from bsr_explorer.models.traced.architecture import TracedGeometry
from bsr_explorer.naming import Naming
from bsr_explorer.prediction import counted_bytes, predict
from bsr_explorer.search.laid import DROPPING, ONE_BY_ONE, Laid, searched
from bsr_explorer.search.space import Space
from bsr_explorer.store.space import FAMILIES, SEARCHED
from bsr_explorer.store.study import COUNTS, SpaceSpec, Study
from tests.search.spaces import SEVERAL, SMALL, enumerated

MakeStudy = Callable[..., Study]


def test_costs_of_what_adds_up_over_blocks_are_laid_out(families: Space) -> None:
    assert [type(each).__name__ for each in families.members] == ["Laid", "Laid", "Listed", "Listed"]
    bsr, mesa = families.members[:2]
    assert isinstance(bsr, Laid)
    assert isinstance(mesa, Laid)
    assert bsr.shape == (1, 7, 11)
    assert mesa.shape == (2, 7, 10)  # nothing to store where no block trains
    assert len(families) == 77 + 140 + 4 * 2 + 1 + 2


CONFIGS: tuple[dict[str, Any], ...] = (
    {},
    {"precision": "amp_bf16", "device": "cuda"},
    {"micro_batches": 2, "attention": "math"},
)


LAID = (
    "bsr+mesa",
    "bsr+backrazor(ratio=0.5)",
    "bsr+mesa(bits=4)+checkpoint",
    "bsr+offload",
    "blocks+drop+checkpoint",
    "bsr(blocks=(1, 3))+backrazor(faithful=False)",
    "bsr+velora(groups=8)+approxbp",
    "bsr+wtacrs+checkpoint",
)


COUNTED = ("peak", "saved")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "config", "counts"),
    [  # each family with each configuration and each way to count
        (family, config, COUNTED[(f + c) % len(COUNTED)])
        for f, family in enumerate(LAID)
        for c, config in enumerate(CONFIGS)
    ],
    ids=str,
)
def test_what_is_laid_out_costs_what_is_predicted(
    make_study: MakeStudy, family: str, config: dict[str, Any], counts: str
) -> None:
    spec = SpaceSpec((), 3, (1, 2), (1.0, 0.5), families=(family,))
    space = Space(make_study(config=config, space=spec, counts=counts))
    assert isinstance(space.members[0], Laid)
    for index in np.random.default_rng(0).choice(len(space), 8):
        candidate = space.at(int(index))
        assert candidate.counted_bytes == counted_bytes(candidate.config, counts)
        assert candidate.train_flops == predict(candidate.config).train_flops


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, batch_sizes=SEVERAL, max_blocks=1)])
def test_every_index_has_the_costs_of_its_configuration(make_study: MakeStudy, spec: SpaceSpec) -> None:
    space = Space(make_study(space=spec))
    expected, found = enumerated(space), {}
    for index in range(len(space.grids[0])):
        candidate = space.at(index)
        found[candidate.key] = candidate.counted_bytes
        assert candidate.train_flops == predict(candidate.config).train_flops
    assert found == {key: expected[key] for key in found}
    assert len(found) == len(space.grids[0])


@pytest.mark.parametrize("counts", [counts for counts in COUNTS if counts not in ONLY_GPUS])
def test_costs_of_a_real_model_are_those_of_the_prediction(make_study: MakeStudy, counts: str) -> None:
    spec = SpaceSpec(("linear",), 3, (3, 6, 9), (1.0, 0.7, 0.5))
    space = Space(make_study(config={"model": "vit_t"}, space=spec, counts=counts))
    for index in np.random.default_rng(0).choice(len(space.grids[0]), 6, replace=False):
        candidate = space.at(int(index))
        assert candidate.counted_bytes == counted_bytes(candidate.config, counts)
        assert candidate.train_flops == predict(candidate.config).train_flops
        assert candidate.key == candidate.config.key(12)


@pytest.mark.parametrize(
    "config",
    [
        {"precision": "amp_bf16"},
        {"micro_batches": 2, "precision": "amp_fp16"},
        {"set_to_none": False, "optimizer": "adamw_8bit"},
        {"device": "cuda", "precision": "bf16"},
        {"attention": "math", "optimizer": "sgd_momentum"},
    ],
    ids=str,
)
def test_costs_are_those_of_how_the_configuration_is_run(
    make_study: MakeStudy, config: dict[str, Any]
) -> None:
    space = Space(make_study(config=config, space=replace(SMALL, start=("linear",), batch_sizes=(4, 8))))
    for index in np.random.default_rng(0).choice(len(space.grids[0]), 12, replace=False):
        candidate = space.at(int(index))
        assert candidate.config.to_dict().items() >= config.items()
        assert candidate.counted_bytes == counted_bytes(candidate.config, "peak")
        assert candidate.train_flops == predict(candidate.config).train_flops


def test_what_is_searched_by_default_is_laid_out() -> None:
    """And what a study file that names no families means is what it always was."""
    plain = geometry("deit_t", 64, 10)
    assert searched(plain, "peak") == SEARCHED
    assert SEARCHED[0] == "bsr"
    assert FAMILIES == ("bsr",)
    assert searched(plain, "published") == FAMILIES
    assert searched(replace(plain, class_token=False, pool="avg"), "peak") == SEARCHED


@pytest.mark.parametrize(("depth", "families"), [(8, FAMILIES), (12, ONE_BY_ONE)])
def test_a_traced_model_is_searched_one_by_one(depth: int, families: tuple[str, ...]) -> None:
    assert searched(TracedGeometry("mine", 64, 10, depth, Naming()), "peak") == families


def test_many_blocks_with_a_class_token_drop_tokens_at_one_rate() -> None:
    traced = TracedGeometry("mine", 64, 10, 12, Naming(), class_token=True)
    assert searched(traced, "peak") == (*ONE_BY_ONE, DROPPING)
