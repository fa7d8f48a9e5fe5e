"""Who holds a tensor by name, and when it is freed."""

from __future__ import annotations

import pytest

from bsr_explorer.cost.holders import Event, Memory, Moment
from tests.cost.conftest import alive

Changes = list[tuple[str, int]]


def _changes(memory: Memory) -> Changes:
    return [(event.name, event.change) for event in memory.events]


def test_a_tensor_is_freed_with_its_last_holder() -> None:
    memory = Memory()
    memory.take("x", 10)
    memory.hold("x")
    memory.drop("x")
    assert (_changes(memory), memory.holders("x")) == ([("x", 10)], 1)
    memory.drop("x")
    assert (_changes(memory), memory.holders("x")) == ([("x", 10), ("x", -10)], 0)


def test_a_name_is_taken_once_at_a_time() -> None:
    memory = Memory()
    memory.take("x", 10)
    with pytest.raises(AssertionError, match="x is already there"):
        memory.take("x", 10)
    memory.drop("x")
    memory.take("x", 20)
    assert alive(_changes(memory)) == {"x": 20}


def test_what_is_gone_is_neither_held_nor_dropped() -> None:
    memory = Memory()
    memory.take("x", 10)
    memory.drop("x")
    for action in (memory.hold, memory.drop):
        with pytest.raises(AssertionError, match="x is gone"):
            action("x")


def test_what_was_found_is_not_recorded_until_it_is_freed() -> None:
    memory = Memory()
    memory.found("x", 10)
    assert _changes(memory) == []
    memory.drop("x")
    assert _changes(memory) == [("x", -10)]


def test_sizes_are_rounded_up_to_what_the_allocator_hands_out() -> None:
    memory = Memory(granularity=512)
    for name, size in (("none", 0), ("one", 1), ("exact", 512), ("more", 513)):
        memory.take(name, size)
    memory.drop("more")
    assert _changes(memory) == [("none", 0), ("one", 512), ("exact", 512), ("more", 1024), ("more", -1024)]
    assert memory.size("more") == 1024


def test_each_event_has_its_moment() -> None:
    memory = Memory()
    memory.take("weight", 4, "parameter")
    memory.moment = Moment("forward", 3, "blocks.3.norm1")
    memory.take("x", 8)
    assert memory.events == [
        Event(4, "weight", Moment("standing", None, "")),
        Event(8, "x", Moment("forward", 3, "blocks.3.norm1")),
    ]


def test_a_holder_may_say_the_kind() -> None:
    memory = Memory()
    memory.take("weight", 4, "parameter")
    memory.take("x", 8)
    assert memory.kinds == {"weight": "parameter"}
    memory.hold("x", "saved")
    assert memory.kinds == {"weight": "parameter", "x": "saved"}


def test_of_nothing_there_is_no_holder() -> None:
    assert Memory().holders("x") == 0
