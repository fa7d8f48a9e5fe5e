"""Bits, thresholds and rounding: what packings are made of, on tensors only."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}



def copy_in_range(x: torch.Tensor, out: torch.Tensor) -> None:
    """Copy; what fp16 cannot hold becomes the largest number that it can, and not infinity."""
    out.copy_(x)
    if out.dtype == torch.float16 and x.dtype != torch.float16:
        largest = torch.finfo(torch.float16).max
        out.clamp_(-largest, largest)


# --- positions ----------------------------------------------------------------------------------------------

_GATHER = 0x0102040810204080
"""Eight bytes of 0 or 1, as one number, times this have those eight bits in the uppermost byte."""


def pack_positions(chosen: torch.Tensor, elements: int, out: torch.Tensor) -> None:
    """A bit for each of so many elements, 1 at the chosen positions, the lowest bit first, into ceil(elements / 8)
    bytes."""
    mask = torch.zeros(out.numel(), 8, dtype=torch.uint8, device=chosen.device)
    mask.view(-1)[chosen] = 1
    eights = mask.view(torch.int64).view(-1)
    out.copy_(eights.mul_(_GATHER).bitwise_right_shift_(56))


def unpack_mask(bits: torch.Tensor, elements: int) -> torch.Tensor:
    """The mask of the positions that ``pack_positions`` packed."""
    eights = _eights(bits.device).index_select(0, bits.to(torch.int32))
    return eights.view(torch.bool)[:elements]


@lru_cache(maxsize=8)
def _eights(device: torch.device) -> torch.Tensor:
    """For each byte its eight bits, as eight bytes in one number."""
    byte, bit = torch.arange(256).unsqueeze(1), torch.arange(8)
    return (byte >> bit & 1).to(torch.uint8).view(torch.int64).view(-1).to(device)


# --- thresholds -----------------------------------------------------------------------------------------


def largest(x: torch.Tensor, count: int) -> torch.Tensor:
    """Positions, in order, of exactly ``count`` elements of the largest magnitude of a flat tensor; of equal ones, the
    first.

    Exact and fast: magnitudes are ordered as their bits are, so the elements are counted by their upper
    15 bits (one pass), which tells in which of these bins the threshold lies. What lies above the bin is kept, and
    only the bin's few elements are searched for the threshold. A 16-bit format has no more bits, and its bin is full
    of equal elements.
    """
    if count >= x.numel():
        return torch.arange(x.numel(), device=x.device)
    wide = x.dtype == torch.float32
    bin_ = _bin_of(x, x.numel() - count)
    candidates = positions(_from_bin(x, bin_))
    too_many = len(candidates) - count
    if not too_many:
        return candidates
    magnitudes = x.index_select(0, candidates).view(torch.int32 if wide else torch.int16)
    magnitudes &= 0x7FFFFFFF if wide else 0x7FFF
    upper = magnitudes >> 16 if wide else magnitudes
    among = positions(upper >= bin_ if bin_ == _INFINITY[x.dtype] else upper == bin_)
    _, ascending = magnitudes.index_select(0, among).neg_().sort(stable=True)  # of equal ones, the first come first
    return _without(candidates, among[ascending[len(among) - too_many :]])


def _bin_of(x: torch.Tensor, rank: int) -> int:
    """The upper 15 bits of the magnitude of this rank (0-based, ascending)."""
    halves = x.view(torch.int16)
    upper = (halves[1::2] if x.dtype == torch.float32 else halves) & 0x7FFF  # little-endian: the upper half is second
    counts = torch.bincount(upper, minlength=2**15).view(2**8, 2**7)
    until = counts.sum(1).cumsum_(0)
    row = int((until <= rank).sum())
    before = int(until[row - 1]) if row else 0
    found = row * 2**7 + int((counts[row].cumsum(0) <= rank - before).sum())
    return min(found, _INFINITY[x.dtype])


_INFINITY = {torch.float32: 0x7F80, torch.bfloat16: 0x7F80, torch.float16: 0x7C00}
"""The upper 15 bits of infinity; what is not a number has more."""


def _from_bin(x: torch.Tensor, bin_: int) -> torch.Tensor:
    """Mask of the magnitudes whose upper 15 bits are these, or more."""
    if x.dtype == torch.float16:
        edge = float(np.uint16(bin_).view(np.float16))
    else:
        edge = float(np.uint32(bin_ << 16).view(np.float32))
    return (x < edge).logical_and_(x > -edge).logical_not_()


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Where a flat mask is true. (NumPy is several times as fast on a CPU.)"""
    if mask.is_cuda:
        return mask.nonzero().view(-1)
    return torch.from_numpy(mask.numpy().nonzero()[0])


def _without(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """A flat tensor without what stands at some places."""
    if values.is_cuda:
        return values[torch.ones_like(values, dtype=torch.bool).index_fill_(0, places, False)]
    return torch.from_numpy(np.delete(values.numpy(), places.numpy()))


# --- few bits -------------------------------------------------------------------------------------------


def current_ranges(grouped: torch.Tensor, channels: bool, out: torch.Tensor) -> None:
    """Smallest value and range of each group, into (2, groups).

    Args:
        grouped: (images, …, groups, within) if ``channels``, else (images, groups, within, …).
    """
    groups = out.shape[1]
    rows, dim, shape = (
        (grouped.reshape(-1, groups * grouped.shape[-1]), 0, (groups, -1))
        if channels
        else (grouped.reshape(len(grouped) * groups, -1), 1, (-1, groups))
    )
    out[0].copy_(rows.amin(dim).view(shape).amin(1 - dim))
    out[1].copy_(rows.amax(dim).view(shape).amax(1 - dim)).sub_(out[0])


def remember(running: torch.Tensor, ranges: torch.Tensor, ema: float) -> None:
    """Bring running ranges up to date (those that were never seen are not numbers), and use them."""
    known = running.isnan().logical_not_()
    ranges.copy_(torch.where(known, running.lerp(ranges, 1 - ema), ranges))
    running.copy_(ranges)


def inverse(ranges: torch.Tensor, levels: int) -> torch.Tensor:
    """Steps a unit; none in a group whose values are all the same."""
    return (levels / ranges).nan_to_num_(nan=0.0, posinf=0.0)


def round_by_chance(x: torch.Tensor, levels: int) -> None:
    """Round to whole numbers 0 to ``levels`` in place: up with a probability that is the fraction, else down.

    The chance has 16 bits, as fine as fp32 tells numbers up to 255 apart.
    """
    count = x.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    chance = bits.view(torch.int16)[:count].to(torch.float32).view(x.shape)
    del bits
    x.add_(chance, alpha=2**-16).add_(0.5 + 2**-17).floor_().clamp_(0, levels)


def pack_numbers(numbers: torch.Tensor, bits: int, out: torch.Tensor) -> None:
    """Rows of whole numbers of few bits: those of the first part of a row lie in the lowest bits."""
    if bits == 8:
        out.copy_(numbers)
        return
    span = out.shape[1]
    out.copy_(numbers[:, :span])
    for place, piece in enumerate(numbers.split(span, dim=1)[1:], start=1):
        out[:, : piece.shape[1]].bitwise_or_(piece.to(torch.uint8).bitwise_left_shift_(bits * place))


def unpack_numbers(packed: torch.Tensor, bits: int, out: torch.Tensor) -> None:
    """The rows of numbers that ``pack_numbers`` packed."""
    if bits == 8:
        out.copy_(packed)
        return
    for place, piece in enumerate(out.split(packed.shape[1], dim=1)):
        piece.copy_((packed[:, : piece.shape[1]] >> (bits * place)).bitwise_and_(2**bits - 1))


def quantize_alone(x: torch.Tensor, bits: int, out: torch.Tensor, ranges: torch.Tensor) -> None:
    """Flat values in few bits within their own range, (2,)."""
    levels = 2**bits - 1
    low, high = torch.aminmax(x)
    ranges[0], ranges[1] = low, high - low
    scaled = x.float().sub_(ranges[0]).mul_(inverse(ranges[1:], levels))
    round_by_chance(scaled, levels)
    pack_numbers(scaled.view(1, -1), bits, out.view(1, -1))


def dequantize_alone(packed: torch.Tensor, bits: int, ranges: torch.Tensor, count: int) -> torch.Tensor:
    """The values that ``quantize_alone`` packed."""
    x = torch.empty(count, dtype=torch.float32, device=packed.device)
    unpack_numbers(packed.view(1, -1), bits, x.view(1, -1))
    return x.mul_(ranges[1] / (2**bits - 1)).add_(ranges[0])
