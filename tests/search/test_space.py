"""The space of a search: what exists, what it costs, what fits, and Optuna's view of it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, parse_method
from bsr_explorer.methods.axes import MOST_SUBSETS
from bsr_explorer.prediction import counted_bytes, predict
from bsr_explorer.search.space import Candidate, Space, default_space
from bsr_explorer.store.study import COUNTS, SpaceSpec, Study
from bsr_explorer.units import format_bytes

MakeStudy = Callable[..., Study]

SEVERAL = (8, 2, 4)
"""Batch sizes; that of the study's configuration, 4, is not the first of them."""

SMALL = SpaceSpec(("linear", "bsr(blocks=(1,), keep={1: 0.5})", "full"), 2, (1, 2), (1.0, 0.5), (True, False))


@pytest.fixture(scope="module")
def small(make_study: MakeStudy) -> Space:
    """The space of ``SMALL``, most of which is within the budget."""
    return Space(make_study(space=SMALL, budget="1100KB"))


def enumerated(space: Space) -> dict[str, int]:
    """Bytes by key of everything in the space, one configuration after the other."""
    spec, depth, found = space.study.space, space.geometry.depth, {}
    subsets = [s for size in range(spec.max_blocks + 1) for s in itertools.combinations(range(depth), size)]
    rates = list(itertools.product(spec.keep, repeat=len(spec.drop_at)))
    methods = [parse_method(text) for text in spec.start]
    methods += [
        Bsr(blocks, dict(zip(spec.drop_at, keep, strict=True)), fuse)
        for blocks, keep, fuse in itertools.product(subsets, rates, spec.fuse)
    ]
    for method, size in itertools.product(methods, spec.batch_sizes or [space.study.config.batch_size]):
        config = replace(space.study.config, method=method, batch_size=size)
        found[config.key(depth)] = counted_bytes(config, space.study.counts)
    return found


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


@pytest.mark.parametrize("counts", COUNTS)
def test_costs_of_a_real_model_are_those_of_the_prediction(make_study: MakeStudy, counts: str) -> None:
    spec = SpaceSpec(("linear",), 3, (3, 6, 9), (1.0, 0.7, 0.5))
    space = Space(make_study(config={"model": "vit_t"}, space=spec, counts=counts))
    for index in np.random.default_rng(0).choice(len(space.grids[0]), 6, replace=False):
        candidate = space.at(int(index))
        assert candidate.counted_bytes == counted_bytes(candidate.config, counts)
        assert candidate.train_flops == predict(candidate.config).train_flops
        assert candidate.key == candidate.config.key(12)


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


# --- several batch sizes --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(make_study: MakeStudy) -> Space:
    """A space of three batch sizes, with configurations beside the grid."""
    start = ("linear", "bsr(blocks=(1,), keep={})", "bitfit", "full")
    return Space(make_study(space=replace(SMALL, start=start, batch_sizes=SEVERAL)))


def sizes_of(candidates: Iterable[Candidate]) -> Counter[int]:
    return Counter(candidate.config.batch_size for candidate in candidates)


def test_there_is_as_much_at_each_batch_size(several: Space) -> None:
    each = sizes_of(several.at(index) for index in range(len(several.grids[0])))
    assert each == dict.fromkeys(SEVERAL, len(several.grids[0]) // 3)


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


@pytest.mark.parametrize("size", SEVERAL)
def test_a_sample_may_have_any_batch_size(several: Space, size: int) -> None:
    generator = np.random.default_rng(0)
    drawn = [several.sample(generator, 0, 1e12) for _ in range(100)]
    each = sizes_of(candidate for candidate in drawn if candidate is not None)
    assert each[size] > 10
    assert sizes_of(several.each(generator))[size] > 10


def test_a_larger_batch_takes_more_memory(several: Space) -> None:
    for known in several.known:
        bytes_of = {size: several.candidate(known.config.how, size).counted_bytes for size in SEVERAL}
        assert bytes_of[2] < bytes_of[4] < bytes_of[8]


def test_the_batch_size_is_a_parameter_where_there_are_several(make_study: MakeStudy, several: Space) -> None:
    assert several.distributions["batch_size"].choices == (2, 4, 8)  # type: ignore[attr-defined]
    for sizes in ((), (8,)):
        space = Space(make_study(space=replace(SMALL, batch_sizes=sizes)))
        assert "batch_size" not in space.distributions
        assert sizes_of([*space.known, space.smallest]) == {(sizes or (4,))[0]: len(space.known) + 1}


@settings(max_examples=60)
@given(st.data())
def test_parameters_say_the_batch_size(several: Space, draw: st.DataObject) -> None:
    places = st.integers(0, len(several.grids[0]) - 1).map(several.at) | st.sampled_from(several.beside)
    candidate = draw.draw(places)
    params = several.encode(candidate)
    assert params.keys() == several.distributions.keys()
    assert params["batch_size"] == candidate.config.batch_size
    assert same(several.decode(params), candidate)


@settings(max_examples=60)
@given(st.data())
def test_all_parameters_are_of_a_configuration_of_the_space(several: Space, draw: st.DataObject) -> None:
    params = {
        name: draw.draw(st.sampled_from(distribution.choices))  # type: ignore[attr-defined]
        for name, distribution in several.distributions.items()
    }
    candidate = several.decode(params)
    assert candidate.config.batch_size == params["batch_size"]
    assert several.holds(candidate)
    assert same(several.decode(several.encode(candidate)), candidate)


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


@pytest.mark.parametrize("counts", COUNTS)
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


# --- samples --------------------------------------------------------------------------------------------


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


# --- Optuna's parameters --------------------------------------------------------------------------------


def same(left: Candidate, right: Candidate) -> bool:
    return replace(left, config=right.config) == right


@settings(max_examples=60)
@given(st.data())
def test_parameters_say_the_configuration(small: Space, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, len(small.grids[0]) - 1))
    candidate = small.at(index)
    params = small.encode(candidate)
    assert params.keys() == small.distributions.keys()
    for name, distribution in small.distributions.items():
        assert distribution._contains(distribution.to_internal_repr(params[name]))
    assert same(small.decode(params), candidate)


@settings(max_examples=60)
@given(st.data())
def test_all_parameters_are_of_a_configuration(small: Space, draw: st.DataObject) -> None:
    params = {
        name: draw.draw(st.sampled_from(distribution.choices))  # type: ignore[attr-defined]
        for name, distribution in small.distributions.items()
    }
    candidate = small.decode(params)
    assert candidate.counted_bytes == counted_bytes(candidate.config, "peak")
    assert same(small.decode(small.encode(candidate)), candidate)


def test_known_configurations_have_parameters(make_study: MakeStudy) -> None:
    space = Space(make_study())
    for candidate in space.known:
        assert same(space.decode(space.encode(candidate)), candidate)


@pytest.mark.parametrize(
    "method",
    [
        "bsr(blocks=(0,), keep={3: 0.5})",  # no drop location of the space
        "bsr(blocks=(0,), keep={}, head=False)",
        "bsr(blocks=(0,), keep={}, norm=False)",
    ],
)
def test_known_configurations_beside_the_grid_have_parameters(make_study: MakeStudy, method: str) -> None:
    space = Space(make_study(space=replace(SMALL, start=(method,))))
    (candidate,) = space.known
    assert same(space.decode(space.encode(candidate)), candidate)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("bsr(blocks=(0,), keep={1: 0.25})", {}),  # no keep rate of the space
        ("bsr(blocks=(0,), keep={1: 0.5}, fuse=True)", {"fuse": (False,)}),
    ],
)
def test_parameters_of_known_configurations_are_allowed(
    make_study: MakeStudy, method: str, changes: dict[str, Any]
) -> None:
    space = Space(make_study(space=replace(SMALL, start=(method,), **changes)))
    for name, value in space.encode(space.known[0]).items():
        assert value in space.distributions[name].choices  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "changes", [{"max_blocks": 1}, {"keep": (0.5,)}, {"fuse": (True,)}], ids=["blocks", "keep", "fuse"]
)
def test_parameters_say_nothing_outside_of_the_space(make_study: MakeStudy, changes: dict[str, Any]) -> None:
    space = Space(make_study(space=replace(SMALL, start=("linear",), **changes)))
    expected = enumerated(space)
    names, choices = zip(
        *((name, distribution.choices) for name, distribution in space.distributions.items()),  # type: ignore[attr-defined]
        strict=True,
    )
    for values in itertools.product(*choices):
        assert space.decode(dict(zip(names, values, strict=True))).key in expected
