"""Sparse packing and unpacking as Triton kernels; see ``kernels``.

A piece is an image's part: tokens × channels of x (images, tokens, parts · channels), its elements in this order.
``CHANNELS`` is a constant, for to divide by one is cheap; it is nothing where an image is one part.
"""

from __future__ import annotations

import triton.language as tl

from bsr_explorer.storages.kernels import jit, narrowed


@jit
def _piece(
    x: tl.tensor, piece: tl.tensor, elements: tl.tensor, PARTS: tl.constexpr, CHANNELS: tl.constexpr
) -> tl.tensor:
    """Where a piece begins."""
    return x + (piece // PARTS).to(tl.int64) * elements * PARTS + (piece % PARTS) * CHANNELS


@jit
def _place(element: tl.tensor, PARTS: tl.constexpr, CHANNELS: tl.constexpr) -> tl.tensor:
    """Where an element lies, from where its piece begins."""
    return element if PARTS == 1 else (element // CHANNELS) * (CHANNELS * PARTS) + element % CHANNELS


@jit
def _magnitude(value: tl.tensor) -> tl.tensor:
    """Bits of the magnitude, which are ordered as magnitudes are; what is not a number is the largest."""
    if value.dtype.primitive_bitwidth == 32:
        magnitude = value.to(tl.uint32, bitcast=True) & 0x7FFFFFFF
    else:
        magnitude = (value.to(tl.uint16, bitcast=True) & 0x7FFF).to(tl.uint32)
    return magnitude


@jit
def thresholds(
    x: tl.tensor,
    found: tl.tensor,
    before: tl.tensor,
    kept: tl.tensor,
    elements: tl.tensor,
    tiles: tl.tensor,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Of each piece the largest magnitude that ``kept`` elements reach, and how many of those that equal it are kept:
    found (pieces, 2). Of each of its tiles how many elements above it, and how many that equal it, come before: before
    (pieces, tiles, 2). A program a piece: it reads it again and again, mostly from the cache, for two more bits of the
    threshold each time."""
    piece = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    start = _piece(x, piece, elements, PARTS, CHANNELS)
    digits: tl.constexpr = x.dtype.element_ty.primitive_bitwidth // 2
    threshold = tl.full((), 0, tl.uint32)
    for digit in range(digits):
        shift = 2 * (digits - 1 - digit)
        step = tl.full((), 1, tl.uint32) << shift
        reach1 = tl.zeros((BLOCK,), tl.int32)
        reach2 = tl.zeros((BLOCK,), tl.int32)
        reach3 = tl.zeros((BLOCK,), tl.int32)
        for tile in range(tiles):
            element = tile * BLOCK + lane
            place = _place(element, PARTS, CHANNELS)
            magnitude = _magnitude(tl.load(start + place, mask=element < elements, other=0))
            reach1 += (magnitude >= threshold + step).to(tl.int32)  # what fills up the last tile reaches none
            reach2 += (magnitude >= threshold + 2 * step).to(tl.int32)
            reach3 += (magnitude >= threshold + 3 * step).to(tl.int32)
        enough = (tl.sum(reach1, axis=0) >= kept).to(tl.uint32)
        enough += (tl.sum(reach2, axis=0) >= kept).to(tl.uint32)
        enough += (tl.sum(reach3, axis=0) >= kept).to(tl.uint32)
        threshold += enough * step
    above = tl.full((), 0, tl.int32)
    ties = tl.full((), 0, tl.int32)
    for tile in range(tiles):
        element = tile * BLOCK + lane
        inside = element < elements
        place = _place(element, PARTS, CHANNELS)
        magnitude = _magnitude(tl.load(start + place, mask=inside, other=0))
        both = ((magnitude == threshold) & inside).to(tl.int32) << 16 | (magnitude > threshold).to(tl.int32)
        here = tl.sum(both, axis=0)
        out = before + (piece * tiles + tile) * 2
        tl.store(out, above)
        tl.store(out + 1, ties)
        above += here & 0xFFFF
        ties += here >> 16
    tl.store(found + piece * 2, threshold.to(tl.int32, bitcast=True))
    tl.store(found + piece * 2 + 1, kept - above)


@jit
def compact(
    x: tl.tensor,
    found: tl.tensor,
    before: tl.tensor,
    values: tl.tensor,
    bits: tl.tensor,
    kept: tl.tensor,
    elements: tl.tensor,
    row: tl.tensor,
    tiles: tl.tensor,
    LARGEST: tl.constexpr,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Values (pieces, kept) in order, and bits (pieces, row), the lowest first. A program a tile.

    ``LARGEST``: what larger values become; 0, if they stay.
    """
    program = tl.program_id(0)
    piece, tile = program // tiles, program % tiles
    element = tile * BLOCK + tl.arange(0, BLOCK)
    inside = element < elements
    start = _piece(x, piece, elements, PARTS, CHANNELS)
    value = tl.load(start + _place(element, PARTS, CHANNELS), mask=inside, other=0)
    magnitude = _magnitude(value)
    threshold = tl.load(found + piece * 2).to(tl.uint32, bitcast=True)
    keeps = tl.load(found + piece * 2 + 1)
    above_before = tl.load(before + program * 2)
    ties_before = tl.load(before + program * 2 + 1)
    above = (magnitude > threshold).to(tl.int32)
    tie = ((magnitude == threshold) & inside).to(tl.int32)
    both = tl.cumsum(tie << 16 | above, axis=0)
    earlier = ties_before + (both >> 16) - tie  # ties that come before this element
    chosen = (above | (tie & (earlier < keeps).to(tl.int32))) != 0
    position = above_before + (both & 0xFFFF) - above + tl.minimum(earlier, keeps)
    out = value.to(tl.float32)
    if LARGEST != 0:
        out = tl.where(out > LARGEST, LARGEST, tl.where(out < -LARGEST, -LARGEST, out))
    place = values + piece.to(tl.int64) * kept + position
    tl.store(place, narrowed(out, values), mask=chosen)
    eights = tl.reshape(chosen.to(tl.int32), (BLOCK // 8, 8)) << tl.arange(0, 8)[None, :]
    byte = tile * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    tl.store(bits + piece.to(tl.int64) * row + byte, tl.sum(eights, axis=1).to(tl.uint8), mask=byte < row)


@jit
def expand(
    values: tl.tensor,
    bits: tl.tensor,
    x: tl.tensor,
    kept: tl.tensor,
    elements: tl.tensor,
    row: tl.tensor,
    tiles: tl.tensor,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Pieces of values (pieces, kept) where bits (pieces, row) are 1, and zeros. A program a tile, which counts the
    bits before it itself: an eighth of a byte an element is soon read."""
    program = tl.program_id(0)
    piece, tile = program // tiles, program % tiles
    line = bits + piece.to(tl.int64) * row
    count = tl.zeros((BLOCK // 8,), tl.int32)
    for earlier in range(tile):
        some = tl.load(line + earlier * (BLOCK // 8) + tl.arange(0, BLOCK // 8)).to(tl.int32)
        some = some - ((some >> 1) & 0x55)
        some = (some & 0x33) + ((some >> 2) & 0x33)
        count += (some + (some >> 4)) & 0xF
    element = tile * BLOCK + tl.arange(0, BLOCK)
    inside = element < elements
    byte = tl.load(line + element // 8, mask=inside, other=0).to(tl.int32)
    bit = (byte >> (element % 8)) & 1
    position = tl.sum(count, axis=0) + tl.cumsum(bit, axis=0) - bit
    value = tl.load(values + piece.to(tl.int64) * kept + position, mask=bit != 0, other=0)
    start = _piece(x, piece, elements, PARTS, CHANNELS)
    tl.store(start + _place(element, PARTS, CHANNELS), narrowed(value.to(tl.float32), x), mask=inside)
