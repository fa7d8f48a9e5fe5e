"""torch's caching allocator on CUDA, simulated: what it hands out, and what it reserves for it.

Rules of ``c10/cuda/CUDACachingAllocator.cpp`` (torch 2.11), as they are without settings. Sizes are rounded up to 512
bytes. What is at most 1 MiB is cut from segments of 2 MiB; what is smaller than 10 MiB, from segments of 20 MiB; what
is larger gets a segment of its own, a multiple of 2 MiB. The smallest free block that is large enough is taken, the
lowest of equal ones; it is split if what is left is at least 512 bytes (of a small one), or more than 1 MiB (of a large
one), and else it counts whole. Free neighbours in a segment become one. A segment stays.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

MiB = 2**20
ROUNDING, SMALL, SMALL_SEGMENT = 512, MiB, 2 * MiB
LARGE, LARGE_SEGMENT, SEGMENT_ROUNDING = 10 * MiB, 20 * MiB, 2 * MiB


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

    def __init__(self) -> None:
        self.allocated = self.reserved = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._at: dict[int, _Block] = {}
        self._end = 0

    def take(self, size: int) -> int:
        """Allocate; returns the address, by which it is given back."""
        size = max(ROUNDING, -(-size // ROUNDING) * ROUNDING)
        small = size <= SMALL
        free = self._free[small]
        place = bisect_left(free, (size, 0))
        block = self._at[free.pop(place)[1]] if place < len(free) else self._segment(size, small)
        rest = block.size - size
        if rest >= ROUNDING if small else rest > SMALL:
            left = _Block(rest, block.address + size, small, block, block.after)
            if block.after is not None:
                block.after.before = left
            block.after, block.size = left, size
            self._at[left.address] = left
            insort(free, (left.size, left.address))
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
        insort(free, (block.size, block.address))

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
