"""The caching allocator, simulated."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.cost.allocator import LARGE, Allocator, MiB


def test_small_pieces_share_a_segment_of_two_mebibytes() -> None:
    allocator = Allocator()
    for _ in range(4):
        allocator.take(MiB // 2)
    assert (allocator.allocated, allocator.reserved) == (2 * MiB, 2 * MiB)
    allocator.take(1)
    assert (allocator.allocated, allocator.reserved) == (2 * MiB + 512, 4 * MiB)


def test_middling_ones_share_one_of_twenty() -> None:
    allocator = Allocator()
    for _ in range(2):
        allocator.take(9 * MiB)
    assert allocator.reserved == 20 * MiB
    allocator.take(3 * MiB)
    assert allocator.reserved == 40 * MiB


def test_a_large_one_has_its_own_a_multiple_of_two_mebibytes() -> None:
    allocator = Allocator()
    allocator.take(33 * MiB + 1)
    assert allocator.reserved == 34 * MiB


def test_what_is_left_of_a_large_block_counts_unless_it_is_more_than_a_mebibyte() -> None:
    whole, split = Allocator(), Allocator()
    whole.take(33 * MiB)
    assert whole.allocated == 34 * MiB
    split.take(32 * MiB + 512)
    split.give(split.take(32 * MiB + 512))
    split.take(20 * MiB)
    assert split.allocated == 32 * MiB + 512 + 20 * MiB


def test_the_smallest_that_is_large_enough_is_taken_of_equal_ones_the_lowest() -> None:
    allocator = Allocator()
    first, second, larger = allocator.take(20 * MiB), allocator.take(20 * MiB), allocator.take(22 * MiB)
    for address in (larger, second, first):
        allocator.give(address)
    assert [allocator.take(20 * MiB) for _ in range(3)] == [first, second, larger]


def test_neighbours_that_are_free_become_one() -> None:
    allocator = Allocator()
    parts = [allocator.take(4 * MiB) for _ in range(5)]
    for place in (1, 3, 2):
        allocator.give(parts[place])
    assert allocator.take(9 * MiB) == parts[1]
    assert allocator.reserved == 20 * MiB


steps = st.lists(st.tuples(st.booleans(), st.integers(1, 3 * LARGE), st.integers(0, 50)), max_size=60)


@settings(max_examples=60)
@given(steps)
def test_what_it_says_is_what_is_there(steps: list[tuple[bool, int, int]]) -> None:
    """Pieces never overlap, segments only grow, and all that is given back leaves whole segments."""
    allocator = Allocator()
    there: dict[int, int] = {}
    reserved = 0
    for gives, size, which in steps:
        if gives and there:
            address = list(there)[which % len(there)]
            del there[address]
            allocator.give(address)
        else:
            address = allocator.take(size)
            assert all(address >= other + n or address + size <= other for other, n in there.items())
            there[address] = size
        assert sum(there.values()) <= allocator.allocated <= allocator.reserved
        assert allocator.reserved >= reserved
        reserved = allocator.reserved
    for address in there:
        allocator.give(address)
    assert allocator.allocated == 0
    assert sum(size for free in allocator._free.values() for size, _ in free) == allocator.reserved


@given(st.lists(st.integers(1, 2 * LARGE), min_size=1, max_size=20))
def test_a_second_time_nothing_more_is_reserved(sizes: list[int]) -> None:
    allocator = Allocator()
    reserved = []
    for _ in range(2):
        for address in [allocator.take(size) for size in sizes]:
            allocator.give(address)
        reserved.append(allocator.reserved)
    assert reserved[0] == reserved[1]
