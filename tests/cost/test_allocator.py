"""The caching allocator, simulated."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.cost.allocator import LARGE, Allocator
from bsr_explorer.devices.caching import Caching, MiB


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


EXPANDABLE = Caching(expandable=True)


def test_an_expandable_segment_grows_by_what_its_last_block_lacks() -> None:
    allocator = Allocator(EXPANDABLE)
    first = allocator.take(30 * MiB)
    assert (allocator.allocated, allocator.reserved) == (30 * MiB, 40 * MiB)
    second = allocator.take(25 * MiB)  # 10 MiB are left, 15 are lacking: a page of 20
    assert (second - first, allocator.reserved) == (30 * MiB, 60 * MiB)
    allocator.take(1)
    assert allocator.reserved == 62 * MiB  # small ones have a segment of their own, and pages of 2 MiB


def test_what_grows_a_little_takes_a_little_more_in_an_expandable_segment() -> None:
    """The case that it is for: each time a somewhat larger piece."""
    sizes = [size * MiB for size in range(20, 60, 2)]
    reserved = []
    for caching in (Caching(), EXPANDABLE):
        allocator = Allocator(caching)
        for size in sizes:
            allocator.give(allocator.take(size))
        reserved.append(allocator.reserved)
    assert reserved == [sum(sizes), 60 * MiB]


def test_in_an_expandable_segment_the_last_block_is_taken_last() -> None:
    allocator = Allocator(EXPANDABLE)
    first = allocator.take(15 * MiB)
    allocator.take(MiB + 512)
    allocator.give(first)
    assert allocator.take(2 * MiB) == first  # 4 MiB at the end would fit better
    assert allocator.reserved == 20 * MiB


def test_in_an_expandable_segment_every_block_is_split() -> None:
    allocator = Allocator(EXPANDABLE)
    allocator.take(20 * MiB - 512)
    assert allocator.allocated == 20 * MiB - 512


def test_a_block_that_is_not_to_be_split_serves_what_is_nearly_as_large() -> None:
    caching = Caching(max_split=40 * MiB)
    allocator = Allocator(caching)
    large = allocator.take(100 * MiB)
    allocator.give(large)
    small = allocator.take(30 * MiB)
    assert (small != large, allocator.reserved) == (True, 130 * MiB)
    assert allocator.take(81 * MiB) == large
    assert allocator.allocated == 130 * MiB  # it counts whole
    allocator.give(large)
    assert allocator.take(80 * MiB) != large  # 20 MiB larger is too large


def test_sizes_are_rounded_up_to_parts_of_a_power_of_two() -> None:
    allocator = Allocator(Caching(divisions=4))
    allocator.take(33 * MiB)
    assert (allocator.allocated, allocator.reserved) == (40 * MiB, 40 * MiB)


def settings_with(*max_splits: int | None) -> st.SearchStrategy[Caching]:
    return st.builds(
        Caching,
        expandable=st.booleans(),
        divisions=st.sampled_from([0, 1, 2, 8]),
        max_split=st.sampled_from(max_splits),
    )


def test_a_segment_that_is_not_to_be_split_serves_no_small_piece_again() -> None:
    """Of 20 MiB itself, where blocks of that size are not to be split."""
    allocator = Allocator(Caching(max_split=20 * MiB))
    for _ in range(2):
        allocator.give(allocator.take(2 * MiB))
    assert allocator.reserved == 40 * MiB


steps = st.lists(st.tuples(st.booleans(), st.integers(1, 3 * LARGE), st.integers(0, 50)), max_size=60)


@settings(max_examples=60)
@given(steps, settings_with(None, 20 * MiB, 25 * MiB))
def test_what_it_says_is_what_is_there(steps: list[tuple[bool, int, int]], caching: Caching) -> None:
    """Pieces never overlap, segments only grow, and all that is given back leaves whole segments."""
    allocator = Allocator(caching)
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
    if caching.expandable:
        assert all(len(free) <= 1 for free in allocator._free.values())


@given(st.lists(st.integers(1, 3 * LARGE), min_size=1, max_size=30))
def test_an_expandable_segment_has_the_pages_of_what_stands_in_it(sizes: list[int]) -> None:
    allocator = Allocator(EXPANDABLE)
    stands = {True: 0, False: 0}
    for size in sizes:
        allocator.take(size)
        stands[size <= MiB] += EXPANDABLE.rounded(size)
        pages = {True: 2 * MiB, False: 20 * MiB}
        assert allocator.allocated == sum(stands.values())
        assert allocator.reserved == sum(-(-stands[pool] // pages[pool]) * pages[pool] for pool in stands)


@given(st.lists(st.integers(1, 2 * LARGE), min_size=1, max_size=20), settings_with(None, 25 * MiB))
def test_a_second_time_nothing_more_is_reserved(sizes: list[int], caching: Caching) -> None:
    allocator = Allocator(caching)
    reserved = []
    for _ in range(2):
        for address in [allocator.take(size) for size in sizes]:
            allocator.give(address)
        reserved.append(allocator.reserved)
    assert reserved[0] == reserved[1]
