"""What autograd holds of a forward operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.cost.holders import Memory
from bsr_explorer.cost.recording import Recording
from bsr_explorer.cost.step import Keep
from bsr_explorer.storages import Narrow
from bsr_explorer.tape import DENSE
from tests.cost.conftest import chain

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def test_autograd_holds_what_backward_needs(passes: Passes) -> None:
    assert passes(chain("a", "b"))[0] == [("0.out", 40), ("1.out", 40)]


PACKED = Keep("x", Narrow("fp16"), 20, 40)


def test_a_dense_tensor_is_held_and_not_copied() -> None:
    memory = Memory()
    memory.found("x", 40)
    run = Recording(memory, [Keep("x", DENSE, 40, 40)], recorded=True)
    run.begin()
    run.end()
    assert (run.held, memory.events, memory.holders("x")) == (["x"], [], 2)
    assert memory.kinds == {"x": "saved"}


@pytest.mark.parametrize(("recorded", "left"), [(True, 20), (False, 0)])
def test_what_is_packed_stays_where_it_is_recorded(recorded: bool, left: int) -> None:
    memory = Memory()
    memory.found("x", 40)
    run = Recording(memory, [PACKED], recorded)
    run.begin()
    assert [event.change for event in memory.events] == [20]
    run.end()
    assert sum(event.change for event in memory.events) == left
    assert bool(run.held) == recorded


def test_a_tensor_that_two_operations_pack_alike_is_packed_once() -> None:
    memory = Memory()
    memory.found("x", 40)
    for _ in range(2):
        Recording(memory, [PACKED], recorded=True).begin()
    assert [event.change for event in memory.events] == [20]
    assert memory.holders(memory.events[0].name) == 2


def test_what_an_operation_takes_is_kept_if_backward_needs_it() -> None:
    memory = Memory()
    run = Recording(memory, [Keep("mean", DENSE, 8, 8)], recorded=True)
    for name in ("mean", "scratch"):
        run.take(name, 8)
    run.drop("mean", "scratch", "never there")
    assert (run.held, memory.holders("mean"), memory.holders("scratch")) == (["mean"], 1, 0)


def test_a_number_that_the_first_run_of_a_segment_holds_is_made_again() -> None:
    memory = Memory()
    run = Recording(memory, [], recorded=True)
    run.keep_number("logsumexp", 4)
    assert run.numbers == []
    run.keep_number("logsumexp", 4)
    assert run.numbers == ["logsumexp again"]
