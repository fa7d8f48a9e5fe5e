"""torch's caching allocator on CUDA, simulated: what it hands out, and what it reserves for it.

Rules of ``c10/cuda/CUDACachingAllocator.cpp`` (torch 2.11). As they are without settings: sizes are rounded up to 512
bytes. What is at most 1 MiB is cut from segments of 2 MiB; what is smaller than 10 MiB, from segments of 20 MiB; what
is larger gets a segment of its own, a multiple of 2 MiB. The smallest free block that is large enough is taken, the
lowest of equal ones; it is split if what is left is at least 512 bytes (of a small one), or more than 1 MiB (of a large
one), and else it counts whole. Free neighbours in a segment become one. A segment stays.

With ``expandable_segments`` there is one segment for what is at most 1 MiB, and one for all else. Where no free block
is large enough, its end grows by pages of 2 or 20 MiB: as many as the last block lacks, if that is free. The last block
is taken only if no other one serves, and every block is split that leaves 512 bytes. Pages stay until the cache is
emptied, which a step does not do. (``devices.caching`` has the other settings.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

from bsr_explorer.devices.caching import AS_IT_IS, LARGE_SEGMENT, Caching, MiB

SMALL, SMALL_SEGMENT = MiB, 2 * MiB
LARGE, SEGMENT_ROUNDING = 10 * MiB, 2 * MiB
APART = 2**60
"""Where the expandable segment of large pieces begins: no small one ends above it."""


@dataclass(slots=True)
class _Block:
    """A piece of a segment; neighbours are None at its ends."""

    size: int
    address: int
    small: bool
    before: _Block | None = None
    after: _Block | None = None
    taken: bool = False


class Allocator:
    """One stream's memory.

    Attributes:
        allocated: bytes of the blocks that are in use (``torch.cuda.memory_allocated``).
        reserved: bytes of all segments (``memory_reserved``); they are never given back.
    """

    def __init__(self, caching: Caching = AS_IT_IS) -> None:
        self.caching = caching
        self.allocated = self.reserved = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._at: dict[int, _Block] = {}
        self._end = 0
        self._last: dict[bool, _Block | None] = {True: None, False: None}

    def take(self, size: int) -> int:
        """Allocate; returns the address, by which it is given back."""
        size = self.caching.rounded(size)
        small = size <= SMALL
        block = self._found(size, small)
        if block is None:
            block = self._grown(size, small) if self.caching.expandable else self._segment(size, small)
        rest = block.size - size
        if self.caching.splits(rest, size, small):
            left = _Block(rest, block.address + size, small, block, block.after)
            if block.after is not None:
                block.after.before = left
            else:
                self._last[small] = left
            block.after, block.size = left, size
            self._at[left.address] = left
            insort(self._free[small], (left.size, left.address))
        block.taken = True
        self.allocated += block.size
        return block.address

    def give(self, address: int) -> None:
        """Free what stands at an address."""
        block = self._at[address]
        self.allocated -= block.size
        block.taken = False
        free = self._free[block.small]
        if block.before is not None and not block.before.taken:
            before = block.before
            free.pop(bisect_left(free, (before.size, before.address)))
            before.size += block.size
            before.after = block.after
            if block.after is not None:
                block.after.before = before
            del self._at[block.address]
            block = before
        if block.after is not None and not block.after.taken:
            after = block.after
            free.pop(bisect_left(free, (after.size, after.address)))
            block.size += after.size
            block.after = after.after
            if after.after is not None:
                after.after.before = block
            del self._at[after.address]
        if block.after is None:
            self._last[block.small] = block
        insort(free, (block.size, block.address))

    def _found(self, size: int, small: bool) -> _Block | None:
        """The free block that serves, taken off the list; None where there is none."""
        free = self._free[small]
        place = bisect_left(free, (size, 0))
        if place == len(free):
            return None
        # The last block counts as large as its segment can become: every other one fits better.
        last = self.caching.expandable and self._at[free[place][1]] is self._last[small]
        if last and place + 1 < len(free):
            place += 1
        if not self.caching.serves(free[place][0], size):
            return None
        return self._at[free.pop(place)[1]]

    def _grown(self, size: int, small: bool) -> _Block:
        """The end of the expandable segment, with the pages that it lacks."""
        page = SMALL_SEGMENT if small else LARGE_SEGMENT
        last = self._last[small]
        if last is not None and not last.taken:
            free = self._free[small]
            free.pop(bisect_left(free, (last.size, last.address)))
            pages = -(-max(0, size - last.size) // page) * page
            last.size += pages
        else:
            pages = -(-size // page) * page
            begin = last.address + last.size if last is not None else 0 if small else APART
            new = _Block(pages, begin, small, last)
            if last is not None:
                last.after = new
            self._at[begin] = self._last[small] = last = new
        self.reserved += pages
        return last

    def _segment(self, size: int, small: bool) -> _Block:
        """A new one; the driver's addresses grow from call to call."""
        whole = SMALL_SEGMENT if small else LARGE_SEGMENT
        if size >= LARGE:
            whole = -(-size // SEGMENT_ROUNDING) * SEGMENT_ROUNDING
        block = _Block(whole, self._end, small)
        self._at[block.address] = block
        self._end += whole
        self.reserved += whole
        return block
