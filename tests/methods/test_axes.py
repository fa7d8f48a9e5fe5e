"""Axes: every value has parameters that say it, and restrictions keep to what an axis can be."""

from __future__ import annotations

from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import METHODS
from bsr_explorer.methods.axes import MOST_SUBSETS, Axis, Choices, Flag, Numbers, Schedules, Subsets
from bsr_explorer.models.base import Geometry
from bsr_explorer.prediction import geometry_of

AXES: list[Axis] = [
    Subsets("blocks", 4, 2),
    Subsets("adapted", 3, 3),
    Schedules("keep", (1, 3), (1.0, 0.5, 0.7)),
    Schedules("keep", (), (1.0,)),
    Numbers("bits", (8, 2, 4)),
    Choices("groups", (None, "heads", (1, 2))),
    Flag("fuse"),
    Flag("fuse", (False,)),
]


@pytest.fixture(scope="module")
def geometry(toy: str) -> Geometry:
    return geometry_of(Config(toy, 48))


@pytest.mark.parametrize("axis", AXES, ids=repr)
def test_every_value_is_said_by_its_parameters(axis: Axis) -> None:
    values = list(axis.values())
    assert len(values) == len(axis)
    assert len({repr(value) for value in values}) == len(values)
    for value in values:
        params = axis.said(value)
        assert params.keys() == axis.parameters.keys()
        assert all(params[name] in choices for name, choices in axis.parameters.items())
        assert axis.value(params) == value
    assert all(axis.said()[name] in choices for name, choices in axis.parameters.items())


def test_names_of_parameters() -> None:
    assert list(Subsets("blocks", 3, 2).parameters) == ["block_00", "block_01", "block_02"]
    assert Schedules("keep", (3, 11), (1.0, 0.5)).parameters == {"keep_03": (0.5, 1.0), "keep_11": (0.5, 1.0)}
    assert Flag("fuse").parameters == {"fuse": (False, True)}
    assert Choices("groups", (None, (1, 2))).parameters == {"groups": (None, "(1, 2)")}


def test_of_more_blocks_than_may_be_the_topmost_are() -> None:
    axis = Subsets("blocks", 4, 2)
    assert axis.value({f"block_{block:02d}": block != 2 for block in range(4)}) == (1, 3)


def test_what_an_axis_does_not_have_is_said_as_nearly_as_can_be() -> None:
    assert Schedules("keep", (1, 2), (0.7, 0.5)).said({1: 0.5, 2: 0.3}) == {"keep_01": 0.5, "keep_02": 0.7}
    assert Flag("fuse", (False,)).said(True) == {"fuse": False}
    assert Numbers("k", (1, 2)).said(9) == {"k": 1}


def test_as_many_subsets_as_can_be_laid_out() -> None:
    assert Subsets.of("blocks", 12).most == 12
    deep = Subsets.of("blocks", 24)
    assert len(deep) <= MOST_SUBSETS // 2 < len(Subsets("blocks", 24, deep.most + 1))


def test_numbers_stand_in_their_order() -> None:
    axis = Numbers("bits", (8, 2, 4))
    assert axis.among == (2, 4, 8)
    assert [axis.place(bits) for bits in axis.among] == [0, 0.5, 1]
    assert Numbers("bits", (8,)).place(8) == 0


def test_restrictions() -> None:
    assert Subsets("blocks", 4, 4).only(2, "x").most == 2
    assert Schedules("keep", (1, 2), (1.0, 0.5)).only([0.7], "x") == Schedules("keep", (1, 2), (0.7,))
    assert Schedules("keep", (1,), (1.0,)).only({"at": [2, 3]}, "x") == Schedules("keep", (2, 3), (1.0,))
    assert Numbers("bits", (8, 4)).only([16, 2], "x") == Numbers("bits", (2, 16))
    assert Choices("blocks", (None,)).only([[0, 1], [2]], "x") == Choices("blocks", ((0, 1), (2,)))
    assert Flag("faithful").only([False], "x") == Flag("faithful", (False,))


@pytest.mark.parametrize(
    ("axis", "asked", "words"),
    [
        (Subsets("blocks", 4, 4), 5, "a whole number from 0 to 4"),
        (Subsets("blocks", 4, 4), [1, 2], "the most blocks of a subset"),
        (Schedules("keep", (1,), (1.0,)), 0.5, "must be a list of rates"),
        (Schedules("keep", (1,), (1.0,)), {"rate": [1.0]}, "must be a list of rates"),
        (Schedules("keep", (1,), (1.0,)), [], "at least one rate"),
        (Numbers("bits", (8,)), ["8"], "'8' is no number"),
        (Numbers("bits", (8,)), True, "True is no number"),
        (Numbers("bits", (8,)), [8, 8], "8 stands twice"),
        (Choices("groups", ("heads",)), "heads", "must be a list of at least one value"),
        (Flag("fuse"), [1], "1 is neither true nor false"),
    ],
)
def test_what_an_axis_cannot_be_is_refused(axis: Axis, asked: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        axis.only(asked, "[space.axes] it")
    assert str(error.value).startswith("[space.axes] it: ")
    assert words in str(error.value)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_axes_of_a_method_are_arguments_that_it_takes(method: Any, geometry: Geometry) -> None:
    for axis in method.axes(geometry):
        for value in axis.values():
            made = method(**{axis.argument: value})
            if value is not None:
                assert getattr(made, axis.argument) == value
