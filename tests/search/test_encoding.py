"""Optuna's parameters of a space: one fixed encoding, there and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.prediction import counted_bytes
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import Study
from tests.search.spaces import SMALL, enumerated, same, sizes_of

MakeStudy = Callable[..., Study]


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


def test_methods_have_parameters_of_their_own_and_bsr_those_of_before(families: Space) -> None:
    names = list(families.distributions)
    assert names[0] == "method"
    assert names[1:8] == [*(f"block_{block:02d}" for block in range(4)), "keep_01", "keep_02", "fuse"]
    assert names[8:] == [
        "mesa.bits",
        "mesa.groups",
        "mesa.faithful",
        "last.k",
        "backrazor.values",
        "backrazor.faithful",
    ]
    kinds = families.distributions["method"].choices  # type: ignore[attr-defined]
    assert kinds[:4] == ("bsr", "bsr+mesa", "last+backrazor(ratio=0.5)", "bitfit")
    assert "full" in kinds


@settings(max_examples=80)
@given(st.data())
def test_all_parameters_are_of_a_configuration_of_a_family(families: Space, draw: st.DataObject) -> None:
    params = {
        name: draw.draw(st.sampled_from(distribution.choices))  # type: ignore[attr-defined]
        for name, distribution in families.distributions.items()
    }
    candidate = families.decode(params)
    assert families.holds(candidate)
    assert candidate.counted_bytes == counted_bytes(candidate.config, "peak")
    assert families.decode(families.encode(candidate)).key == candidate.key


def test_every_configuration_has_its_parameters(families: Space) -> None:
    for index in range(len(families) - len(families.beside)):
        params = families.encode(families.at(index))
        assert params.keys() == families.distributions.keys()
        assert families.decode(params).key == families.at(index).key
