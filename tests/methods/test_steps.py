"""What is known of steps that differ."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.methods.steps import DRAWS, EVERYTHING, Choice, Shape, Steps, drawn_from


def test_what_lies_within_a_path_rests_with_it_and_nothing_beside() -> None:
    shape = Shape(rests=("blocks.1", "head"))
    assert (
        shape.rests_at("blocks.1.attn.qkv.weight") and shape.rests_at("head.bias") and shape.rests_at("head")
    )
    assert not shape.rests_at("blocks.11.attn.qkv.weight") and not shape.rests_at("header")
    assert not EVERYTHING.rests_at("head.bias")


def test_a_shape_says_what_it_is() -> None:
    assert str(EVERYTHING) == "all trains"
    assert str(Shape(("blocks.0",), ("blocks.1.mlp",), ((2, 5),))) == (
        "at rest blocks.0; skipped blocks.1.mlp; tokens (2, 5)"
    )


def test_of_what_is_chosen_among_the_rest_rests() -> None:
    steps = Steps((), "", (Choice(("a", "b", "c"), 2), Choice(("d", "e"), 1)))
    assert steps.training({"a", "c", "e"}) == Shape(rests=("b", "d"))


@given(st.integers(1, 12), st.data(), st.text(max_size=5))
def test_steps_that_stand_for_all_choose_as_many_and_are_the_same_each_time(
    parts: int, data: st.DataObject, seed: str
) -> None:
    count = data.draw(st.integers(1, parts))
    choice = Choice(tuple(f"blocks.{part}" for part in range(parts)), count)
    steps = drawn_from((choice,), Shape, seed, "in words")
    assert steps == drawn_from((choice,), Shape, seed, "in words")
    assert sum(share for share, _ in steps.expected) == pytest.approx(1)
    assert all(len(shape.rests) == parts - count for _, shape in steps.expected)
    assert 1 <= len(steps.expected) <= DRAWS
