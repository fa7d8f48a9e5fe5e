"""Tensors and who holds them."""

from __future__ import annotations

import pytest

from bsr_explorer.cost.memory import Event, Memory, Moment, Pass
from bsr_explorer.cost.peak import levels
from bsr_explorer.tape import Op, Parameter, Tape, Tensor


def test_a_tensor_is_freed_with_its_last_holder() -> None:
    memory = Memory()
    memory.moment = Moment("forward", 3, "blocks.3.norm1")
    memory.take("x", 12)
    memory.hold("x", "saved")
    memory.drop("x")
    assert memory.events == [Event(12, "x", memory.moment)]
    memory.drop("x")
    assert memory.events[1:] == [Event(-12, "x", memory.moment)]
    assert memory.kinds == {"x": "saved"}


def test_sizes_are_rounded_up_as_the_allocator_does() -> None:
    memory = Memory(granularity=512)
    for size in (0, 1, 512, 513):
        memory.take(str(size), size)
    assert [event.change for event in memory.events] == [0, 512, 512, 1024]


def test_what_was_there_before_is_not_an_event_until_it_is_freed() -> None:
    memory = Memory()
    memory.found("x", 8)
    assert memory.events == []
    memory.drop("x")
    assert levels(memory.events) == (-8, 0)


def test_what_is_gone_cannot_be_held_or_dropped_and_what_is_there_not_taken_again() -> None:
    memory = Memory()
    for action in (memory.hold, memory.drop):
        with pytest.raises(AssertionError, match="gone"):
            action("x")
    memory.take("x", 1)
    with pytest.raises(AssertionError, match="already there"):
        memory.take("x", 1)


def _branch(trains: bool) -> Tape:
    """y = x + fc2(gelu(fc1(x))), in a block, of 2 x 3 numbers."""
    ops = (
        Op("blocks.0.mlp.fc1", "linear", 0, ("x",), "a", {"weight": "w1"}),
        Op("blocks.0.mlp.act", "gelu", 0, ("a",), "b"),
        Op("blocks.0.mlp.fc2", "linear", 0, ("b",), "c", {"weight": "w2"}),
        Op("blocks.0", "add", 0, ("x", "c"), "y"),
    )
    parameters = {
        "w1": Parameter("w1", (6, 3), 0, trains=trains),
        "w2": Parameter("w2", (3, 6), 0, trains=trains),
    }
    return Tape((Tensor("x", (2, 3), "x"),), parameters, ops)


def _changes(memory: Memory) -> list[tuple[str, int]]:
    return [(event.name, event.change) for event in memory.events]


def test_frames_hold_an_argument_until_the_call_returns() -> None:
    memory = Memory()
    memory.found("x", 24)
    Pass(_branch(trains=False), memory, fed_at="blocks").forward()
    assert (
        _changes(memory)
        == [
            ("a", 48),
            ("b", 48),
            ("a", -48),
            ("c", 24),
            ("b", -48),
            ("y", 24),
            ("x", -24),  # given to the block, which returns now
            ("c", -24),
        ]
        or _changes(memory)[-2:] == [("c", -24), ("x", -24)]
    )


def test_autograd_holds_what_is_kept_until_its_node_has_run() -> None:
    memory = Memory()
    memory.found("x", 24)
    run = Pass(_branch(trains=True), memory, fed_at="blocks")
    run.forward()
    assert levels(memory.events)[0] == 48 + 48 + 24  # a, b and y; x is held for fc1
    run.feed_gradient()
    run.backward()
    level, _ = levels(memory.events)
    # x, the gradient from above, y's own owner aside: y and the weights' gradients are left.
    assert level == 24 - 24 - 24 + 2 * 72


def test_a_gradient_is_added_in_place_where_nobody_else_holds_it() -> None:
    memory = Memory()
    memory.found("x", 24)
    run = Pass(_branch(trains=True), memory, live_inputs=True, fed_at="blocks")
    run.forward()
    before = len(memory.events)
    run.feed_gradient()
    run.backward()
    late = [(name, change) for name, change in _changes(memory)[before:] if name.endswith(" of x")]
    assert late == [(late[0][0], 24), (late[0][0], -24)]  # x's gradient lives on in the one from above
