"""Packing and unpacking as Triton kernels: few launches a tensor, and none that waits for the device.

What they make has the form, and where no chance is drawn the bits, of what ``packing`` makes (``fused`` launches them).
They are launched without fused multiply-adds, as torch's operations round after each. Pointers are to contiguous
tensors; ``tiles`` says how a tensor is divided. Smallest values and widths of groups lie ``stride`` apart; an image's
elements are of the group ``first`` and those after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import triton
import triton.language as tl

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def jit(function: _Kernel) -> _Kernel | Any:
    """Triton's own, which says no types."""
    return triton.jit(function)


@jit
def narrowed(value: tl.tensor, out: tl.tensor) -> tl.tensor:
    """fp32 in the format that a pointer points to, the nearest as torch's is. (Of bf16 this is said bit by bit, for
    Triton's interpreter cuts it off.)"""
    if out.dtype.element_ty == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        bits = tl.where(value == value, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)
        found = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        found = value.to(out.dtype.element_ty)
    return found


# --- ranges ---------------------------------------------------------------------------------------------
# Extremes are sought among keys: whole numbers of 32 bits that are ordered as the numbers are. What is not a number
# has the smallest of keys where the smallest is sought, and the largest where that is: so it is found, as by torch.

_LEAST = tl.constexpr(-(2**31))
_MOST = tl.constexpr(2**31 - 1)


@jit
def _key(value: tl.tensor, unordered: tl.tensor) -> tl.tensor:
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(value == value, bits ^ ((bits >> 31) & _MOST), unordered)


@jit
def _of_key(key: tl.tensor) -> tl.tensor:
    return (key ^ ((key >> 31) & _MOST)).to(tl.float32, bitcast=True)


@jit
def extremes_of_runs(
    x: tl.tensor,
    keys: tl.tensor,
    inner: tl.tensor,
    count: tl.tensor,
    shares: tl.tensor,
    extremes: tl.tensor,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Keys (2, outer · shares, count) of x (outer, count, inner): a program a run's share."""
    program = tl.program_id(0)
    run, share = program // shares, program % shares
    low = tl.full((BLOCK,), _MOST, tl.int32)
    high = tl.full((BLOCK,), _LEAST, tl.int32)
    start = share.to(tl.int64) * CHUNK
    left = inner - start
    start += run.to(tl.int64) * inner
    for first in range(0, CHUNK, BLOCK):
        element = first + tl.arange(0, BLOCK)
        inside = element < left
        value = tl.load(x + start + element, mask=inside, other=0).to(tl.float32)
        low = tl.minimum(low, tl.where(inside, _key(value, _LEAST), _MOST))
        high = tl.maximum(high, tl.where(inside, _key(value, _MOST), _LEAST))
    place = ((run // count) * shares + share) * count + run % count
    tl.store(keys + place, tl.min(low, axis=0))
    tl.store(keys + extremes * count + place, tl.max(high, axis=0))


@jit
def extremes_of_columns(
    x: tl.tensor,
    keys: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    rows_each: tl.tensor,
    shares: tl.tensor,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    """Keys (2, shares, columns) of x (rows, columns): a program so many columns' share of rows."""
    column = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    share = tl.program_id(1)
    low = tl.full((TALL, WIDE), _MOST, tl.int32)
    high = tl.full((TALL, WIDE), _LEAST, tl.int32)
    for first in range(0, rows_each, TALL):
        row = share * rows_each + first + tl.arange(0, TALL)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        place = row.to(tl.int64)[:, None] * columns + column[None, :]
        value = tl.load(x + place, mask=inside, other=0).to(tl.float32)
        low = tl.minimum(low, tl.where(inside, _key(value, _LEAST), _MOST))
        high = tl.maximum(high, tl.where(inside, _key(value, _MOST), _LEAST))
    out = share * columns + column
    tl.store(keys + out, tl.min(low, axis=0), mask=column < columns)
    tl.store(keys + shares * columns + out, tl.max(high, axis=0), mask=column < columns)


@jit
def _remembered(running: tl.tensor, now: tl.tensor, WEIGHT: tl.constexpr) -> tl.tensor:
    """Torch's lerp, a fused multiply-add: of products of two fp32, 64 bits hold every bit."""
    away = (now - running).to(tl.float64)
    wide = running.to(tl.float64) if WEIGHT < 0.5 else now.to(tl.float64)
    mean = wide + away * (WEIGHT if WEIGHT < 0.5 else WEIGHT - 1.0)
    return tl.where(running == running, mean.to(tl.float32), now)


@jit
def settle(
    keys: tl.tensor,
    lows: tl.tensor,
    widths: tl.tensor,
    stride: tl.tensor,
    scales: tl.tensor,
    running: tl.tensor,
    count: tl.tensor,
    within: tl.tensor,
    extremes: tl.tensor,
    LEVELS: tl.constexpr,
    REMEMBERS: tl.constexpr,
    WEIGHT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Smallest values, widths and scales of keys, each group's ``within`` side by side; running ranges (2, count) are
    brought up to date. A program a group."""
    group = tl.program_id(0)
    low = tl.full((BLOCK,), _MOST, tl.int32)
    high = tl.full((BLOCK,), _LEAST, tl.int32)
    for first in range(0, extremes, BLOCK):
        entry = first + tl.arange(0, BLOCK)
        inside = entry < extremes
        place = keys + ((entry // within) * count + group) * within + entry % within
        low = tl.minimum(low, tl.load(place, mask=inside, other=_MOST))
        high = tl.maximum(high, tl.load(place + extremes * count, mask=inside, other=_LEAST))
    smallest = _of_key(tl.min(low, axis=0))
    width = _of_key(tl.max(high, axis=0)) - smallest
    if REMEMBERS:
        smallest = _remembered(tl.load(running + group), smallest, WEIGHT)
        width = _remembered(tl.load(running + count + group), width, WEIGHT)
        tl.store(running + group, smallest)
        tl.store(running + count + group, width)
    tl.store(lows + group * stride, smallest)
    tl.store(widths + group * stride, width)
    scale = tl.div_rn(1.0, width) * LEVELS  # torch's quotient of a number and a tensor
    tl.store(scales + group, tl.where(tl.abs(scale) < float("inf"), scale, 0.0))


# --- few bits -------------------------------------------------------------------------------------------


@jit
def _rounded(
    x: tl.tensor,
    lows: tl.tensor,
    stride: tl.tensor,
    scales: tl.tensor,
    word: tl.tensor,
    element: tl.tensor,
    elements: tl.tensor,
    first: tl.tensor,
    inner: tl.tensor,
    count: tl.tensor,
    LEVELS: tl.constexpr,
) -> tl.tensor:
    """Numbers of an image's elements, up where the word that was drawn is below the fraction; 0 beyond the last."""
    inside = element < elements
    group = (first + element // inner) % count
    value = tl.load(x + element, mask=inside, other=0).to(tl.float32)
    scaled = (value - tl.load(lows + group * stride)) * tl.load(scales + group)
    scaled = tl.where(scaled == scaled, scaled, 0.0)
    scaled = tl.minimum(tl.maximum(scaled, 0.0), LEVELS * 1.0)
    whole = scaled.to(tl.int32)
    up = (word >> 8).to(tl.float32) * 2**-24 < scaled - whole.to(tl.float32)
    return tl.where(inside, whole + up.to(tl.int32), 0)


@jit
def pack_numbers(
    x: tl.tensor,
    lows: tl.tensor,
    stride: tl.tensor,
    scales: tl.tensor,
    seed: tl.tensor,
    numbers: tl.tensor,
    elements: tl.tensor,
    row: tl.tensor,
    inner: tl.tensor,
    count: tl.tensor,
    tiles: tl.tensor,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Bytes (images, row) of x (images, elements). A program draws four words a lane, each for one number: for those
    of a byte, and of as many bytes as these are enough for."""
    LEVELS: tl.constexpr = 2**BITS - 1
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    w0, w1, w2, w3 = tl.randint4x(tl.load(seed), program * BLOCK + lane)
    image, tile = (program // tiles).to(tl.int64), program % tiles
    first = (image * (elements // inner) % count).to(tl.int32)
    x += image * elements
    numbers += image * row
    byte = tile * (BLOCK * (BITS // 2)) + lane
    if BITS == 8:
        n0 = _rounded(x, lows, stride, scales, w0, byte, elements, first, inner, count, LEVELS)
        n1 = _rounded(x, lows, stride, scales, w1, byte + BLOCK, elements, first, inner, count, LEVELS)
        n2 = _rounded(x, lows, stride, scales, w2, byte + 2 * BLOCK, elements, first, inner, count, LEVELS)
        n3 = _rounded(x, lows, stride, scales, w3, byte + 3 * BLOCK, elements, first, inner, count, LEVELS)
        tl.store(numbers + byte, n0.to(tl.uint8), mask=byte < row)
        tl.store(numbers + byte + BLOCK, n1.to(tl.uint8), mask=byte + BLOCK < row)
        tl.store(numbers + byte + 2 * BLOCK, n2.to(tl.uint8), mask=byte + 2 * BLOCK < row)
        tl.store(numbers + byte + 3 * BLOCK, n3.to(tl.uint8), mask=byte + 3 * BLOCK < row)
    elif BITS == 4:
        n0 = _rounded(x, lows, stride, scales, w0, byte, elements, first, inner, count, LEVELS)
        n1 = _rounded(x, lows, stride, scales, w1, byte + row, elements, first, inner, count, LEVELS)
        tl.store(numbers + byte, (n0 | n1 << 4).to(tl.uint8), mask=byte < row)
        byte += BLOCK
        n2 = _rounded(x, lows, stride, scales, w2, byte, elements, first, inner, count, LEVELS)
        n3 = _rounded(x, lows, stride, scales, w3, byte + row, elements, first, inner, count, LEVELS)
        tl.store(numbers + byte, (n2 | n3 << 4).to(tl.uint8), mask=byte < row)
    else:
        n0 = _rounded(x, lows, stride, scales, w0, byte, elements, first, inner, count, LEVELS)
        n1 = _rounded(x, lows, stride, scales, w1, byte + row, elements, first, inner, count, LEVELS)
        n2 = _rounded(x, lows, stride, scales, w2, byte + 2 * row, elements, first, inner, count, LEVELS)
        n3 = _rounded(x, lows, stride, scales, w3, byte + 3 * row, elements, first, inner, count, LEVELS)
        tl.store(numbers + byte, (n0 | n1 << 2 | n2 << 4 | n3 << 6).to(tl.uint8), mask=byte < row)


@jit
def unpack_numbers(
    numbers: tl.tensor,
    lows: tl.tensor,
    widths: tl.tensor,
    stride: tl.tensor,
    x: tl.tensor,
    elements: tl.tensor,
    row: tl.tensor,
    inner: tl.tensor,
    count: tl.tensor,
    tiles: tl.tensor,
    BITS: tl.constexpr,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """x (images, elements) of bytes (images, row).

    ``INVERSE``: of the levels, if torch multiplies by it (as it does on CUDA); 0, if it divides.
    """
    LEVELS: tl.constexpr = 2**BITS - 1
    program = tl.program_id(0)
    image, tile = (program // tiles).to(tl.int64), program % tiles
    first = (image * (elements // inner) % count).to(tl.int32)
    byte = tile * BLOCK + tl.arange(0, BLOCK)
    packed = tl.load(numbers + image * row + byte, mask=byte < row, other=0).to(tl.int32)
    for place in tl.static_range(8 // BITS):
        element = byte + place * row
        group = ((first + element // inner) % count) * stride
        width = tl.load(widths + group)
        step = width * INVERSE if INVERSE > 0 else tl.div_rn(width, tl.full((BLOCK,), LEVELS, tl.float32))
        number = ((packed >> (BITS * place)) & LEVELS).to(tl.float32)
        value = number * step + tl.load(lows + group)
        inside = (byte < row) & (element < elements)
        tl.store(x + image * elements + element, narrowed(value, x), mask=inside)
