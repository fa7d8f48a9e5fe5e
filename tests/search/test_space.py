"""The space of a search: what exists, what it costs, what fits, and Optuna's view of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bsr_explorer.config import ONLY_GPUS
from bsr_explorer.errors import UserError
from bsr_explorer.methods.axes import MOST_SUBSETS
from bsr_explorer.prediction import counted_bytes
from bsr_explorer.search.space import Space, default_space
from bsr_explorer.store.study import COUNTS, SpaceSpec, Study
from bsr_explorer.units import format_bytes
from tests.search.spaces import SEVERAL, SMALL, enumerated, sizes_of

MakeStudy = Callable[..., Study]

"""Batch sizes; that of the study's configuration, 4, is not the first of them."""


# --- what exists and what fits --------------------------------------------------------------------------


SPECS = (
    ("toy", SMALL),
    ("toy", replace(SMALL, drop_at=(0,), keep=(0.9, 0.3), fuse=(True,))),
    ("toy", replace(SMALL, drop_at=(), max_blocks=4)),
    ("toy", replace(SMALL, max_blocks=0, start=())),
    ("toy", replace(SMALL, batch_sizes=SEVERAL)),
    ("toy", replace(SMALL, batch_sizes=(8,))),
    ("toy_2", replace(SMALL, drop_at=(0, 1), keep=(1.0, 0.7, 0.2), start=("bitfit",))),
)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "spec", "counts"),
    [  # peak, which adds up to least, is counted everywhere
        (*spec, counts)
        for place, spec in enumerate(SPECS)
        for counts in ("peak", ("saved", "published")[place % 2])
    ],
)
def test_the_space_is_what_its_study_says(
    make_study: MakeStudy, model: str, spec: SpaceSpec, counts: str
) -> None:
    spec = replace(spec, start=tuple(text for text in spec.start if "bsr" not in text))
    study = make_study(config={"model": model}, space=spec, counts=counts)
    space = Space(study)
    expected = enumerated(space)
    assert len(space) == len(expected)
    assert space.range_bytes == (min(expected.values()), max(expected.values()))
    mean = sum(expected.values()) // len(expected)
    for budget in (1, min(expected.values()), mean, max(expected.values())):
        cut = Space(replace(study, budget=f"{budget}B"))
        assert cut.fitting == sum(size <= budget for size in expected.values())


def test_the_smallest_is_the_smallest(make_study: MakeStudy) -> None:
    space = Space(make_study(space=SMALL))
    in_grid = {space.at(index).counted_bytes for index in range(len(space.grids[0]))}
    assert space.smallest.counted_bytes == min(in_grid)


def test_known_configurations_beside_the_grid_are_counted(make_study: MakeStudy) -> None:
    spec = SpaceSpec(("last(k=3)", "bsr(blocks=(0,), keep={1: 0.25})"), 1, (1,), (1.0, 0.5))
    space = Space(make_study(space=spec, budget="1GB"))
    assert len(space) == space.fitting == len(enumerated(space))


def test_known_configurations_have_their_costs(make_study: MakeStudy) -> None:
    study = make_study()
    space = Space(study)
    assert [str(c.config.how) for c in space.known] == list(study.space.start)
    for candidate in space.known:
        assert candidate.counted_bytes == counted_bytes(candidate.config, "peak")
        assert space.fits(candidate) == (candidate.counted_bytes <= study.budget_bytes)
    assert [space.fits(c) for c in space.known] == [True] * 6 + [False] * 2


# --- several batch sizes --------------------------------------------------------------------------------


def test_what_is_known_is_tried_at_the_first_batch_size(several: Space) -> None:
    assert sizes_of(several.known) == {SEVERAL[0]: 4}


def test_what_lies_beside_the_grid_does_so_at_each_batch_size(several: Space) -> None:
    beside = {(str(c.config.how), c.config.batch_size): c for c in several.beside}
    methods = ("bitfit", "full", "linear")
    assert set(beside) == set(itertools.product(methods, SEVERAL))
    assert len({candidate.key for candidate in several.beside}) == len(several.beside)
    for candidate in several.beside:
        assert candidate.counted_bytes == counted_bytes(candidate.config, "peak")
        assert several.holds(candidate)


def test_only_the_batch_sizes_of_the_space_are_held(several: Space) -> None:
    method = several.known[1].config.how
    assert [size for size in range(1, 17) if several.holds(several.candidate(method, size))] == [2, 4, 8]


def test_a_larger_batch_takes_more_memory(several: Space) -> None:
    for known in several.known:
        bytes_of = {size: several.candidate(known.config.how, size).counted_bytes for size in SEVERAL}
        assert bytes_of[2] < bytes_of[4] < bytes_of[8]


@pytest.mark.parametrize("start", [("linear",), ()])
def test_a_batch_size_that_does_not_fall_into_micro_batches_is_refused(
    make_study: MakeStudy, start: tuple[str, ...]
) -> None:
    spec = replace(SMALL, start=start, batch_sizes=(4, 6))
    with pytest.raises(UserError, match="--micro-batches: 6 images do not fall into 4 equal parts"):
        Space(make_study(config={"micro_batches": 4}, space=spec))


# --- the default ----------------------------------------------------------------------------------------


def test_the_default_holds_everything_in_a_small_model(make_study: MakeStudy) -> None:
    spec = default_space(Space(make_study()).geometry)
    assert spec.max_blocks == 4
    assert spec.drop_at == (1, 2, 3)
    assert spec.start[0] == "linear"
    assert spec.start[-1] == "full"
    assert len(set(spec.start)) == len(spec.start)


def test_the_default_of_a_deep_model_is_laid_out(make_study: MakeStudy) -> None:
    geometry = replace(Space(make_study()).geometry, depth=24)
    spec = default_space(geometry)
    assert 1 <= spec.max_blocks < 24
    assert all(0 <= block < 24 for block in spec.drop_at)
    subsets = sum(1 for size in range(spec.max_blocks + 1) for _ in itertools.combinations(range(24), size))
    assert subsets <= MOST_SUBSETS


def test_the_default_without_a_class_token_drops_nothing(make_study: MakeStudy) -> None:
    spec = default_space(replace(Space(make_study()).geometry, class_token=False))
    assert spec.drop_at == ()
    assert not any("keep={1" in text for text in spec.start)


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"drop_at": (1, 4)}, "[space] drop_at: block 4 is out of range; use 0 to 3"),
        ({"drop_at": (-1,)}, "[space] drop_at: block -1 is out of range"),
        ({"max_blocks": 5}, "[space] max_blocks: 5 must be 0 to 4"),
        ({"max_blocks": -1}, "[space] max_blocks: -1 must be 0 to 4"),
        ({"start": ("bsr(blocks=(4,))",)}, "block 4 is out of range"),
        ({"start": ("last(k=5)",)}, "the model has 4 blocks"),
    ],
)
def test_a_space_that_the_model_does_not_have_is_refused(
    make_study: MakeStudy, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as error:
        Space(make_study(space=replace(SMALL, **changes)))
    assert words in str(error.value)


def test_a_space_that_is_too_large_is_refused(make_study: MakeStudy) -> None:
    with pytest.raises(UserError, match=r"max_blocks: 24 blocks have 190,051 subsets of at most 6.*lower it"):
        Space(make_study(config={"model": "vit_l"}, space=replace(SMALL, max_blocks=6, drop_at=())))


def test_dropping_without_a_class_token_is_refused(make_study: MakeStudy) -> None:
    model = "vit_base_patch16_siglip_gap_224"  # pools the mean
    study = make_study(config={"model": model}, space=SMALL)
    with pytest.raises(UserError, match=r"drop_at: .* has no class token"):
        Space(study)
    space = Space(replace(study, space=replace(SMALL, drop_at=(), start=("linear",))))
    assert len(space) == 1 + 1 + 12 + 66


@pytest.mark.parametrize("counts", [counts for counts in COUNTS if counts not in ONLY_GPUS])
def test_a_budget_that_nothing_fits_is_refused_with_what_is_needed(
    make_study: MakeStudy, counts: str
) -> None:
    needed = Space(make_study(counts=counts)).range_bytes[0]
    with pytest.raises(UserError) as error:
        Space(make_study(counts=counts, budget=f"{needed - 1}B")).check_budget()
    text = str(error.value)
    assert text.startswith(f"--budget: {needed - 1}B is less than the smallest configuration needs")
    assert f"{format_bytes(needed)} at batch 4 counting {counts}" in text
    enough = Space(make_study(counts=counts, budget=f"{needed}B"))
    enough.check_budget()
    assert enough.fitting >= 1


def test_what_the_published_accounting_has_no_rule_for_is_no_part_of_a_space_that_counts_by_it(
    make_study: MakeStudy,
) -> None:
    study = make_study(counts="published")
    assert "checkpoint" in study.space.start
    space = Space(study)
    assert [str(method) for method in space.unruled] == ["checkpoint"]
    assert "checkpoint" not in {str(known.config.how) for known in space.known}
    assert not Space(make_study()).unruled
    for family in ("bsr+mesa", "lora", "full+velora"):
        families = replace(study.space, families=("bsr", family) if family == "lora" else (family,))
        with pytest.raises(UserError, match="--budget-counts: published has no rule for"):
            Space(replace(study, space=families))


def test_a_quantile_says_something_where_steps_differ(make_study: MakeStudy) -> None:
    study = make_study(quantile=0.5)
    assert not Space(study).differs
    moving = replace(study.space, families=("full+dropbp",))
    mine, whole = (Space(replace(study, space=moving, quantile=q)) for q in (0.5, 1.0))
    assert mine.differs
    sizes = [
        {str(space.at(i).config.how): space.at(i).counted_bytes for i in range(3)} for space in (mine, whole)
    ]
    assert sizes[0].keys() == sizes[1].keys()
    assert all(sizes[0][method] < sizes[1][method] for method in sizes[0])


@pytest.mark.parametrize("counts", ["peak", *ONLY_GPUS])
def test_on_a_gpu_what_is_looked_at_is_followed_through_the_allocator(
    make_study: MakeStudy, counts: str
) -> None:
    """What is laid out is the least that each can take; what is proposed is known to the byte, and fits."""
    there = {"device": "cuda", "gpu": "l4"}
    whole = Space(make_study(config=there, counts=counts))
    some = [whole.at(index) for index in range(0, 40, 5)]
    assert all(each.counted_bytes == counted_bytes(each.config, counts) for each in some)
    budget = sorted(each.counted_bytes for each in some)[len(some) // 2]
    space = Space(make_study(config=there, counts=counts, budget=f"{budget}B"))
    assert space.at_least
    generator = np.random.default_rng(0)
    found = [space.sample(generator, 0, budget), next(space.each(generator))]
    assert all(each is None or space.fits(each) for each in found)
    pool = space.pool(generator, 20, [])
    assert all(pool.costs[row, 0] <= pool.at(row).counted_bytes for row in range(5))
    needed = space.smallest.counted_bytes
    with pytest.raises(UserError, match=f"{needed - 1}B is less than the smallest configuration needs"):
        Space(make_study(config=there, counts=counts, budget=f"{needed - 1}B")).check_budget()


def test_on_a_cpu_all_sizes_are_known(make_study: MakeStudy) -> None:
    assert not Space(make_study()).at_least
    assert not Space(make_study(config={"device": "cuda"}, counts="saved")).at_least


# --- samples --------------------------------------------------------------------------------------------


# --- Optuna's parameters --------------------------------------------------------------------------------
