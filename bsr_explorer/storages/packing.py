"""Packing of real tensors: bits, thresholds, stochastic rounding."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.weak import WeakIdKeyDictionary

from bsr_explorer.units import TORCH

Whole = NDArray[np.signedinteger[Any]]

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, theirs) for name, theirs in TORCH.items()}


def copy_in_range(x: torch.Tensor, out: torch.Tensor) -> None:
    """Copy; what fp16 cannot hold becomes the largest number that it can, and not infinity."""
    out.copy_(x)
    if out.dtype == torch.float16 and x.dtype != torch.float16:
        largest = torch.finfo(torch.float16).max
        out.clamp_(-largest, largest)


# --- memories -----------------------------------------------------------------------------------------------

_seen: WeakIdKeyDictionary = WeakIdKeyDictionary()


def has_seen(running: torch.Tensor) -> bool:
    """Whether a memory has anything of an earlier step: what was never seen is not a number. Once it has, it is not
    read again, for on a GPU that waits for all that was launched."""
    if running not in _seen:
        if math.isnan(running[0].item()):
            return False
        _seen[running] = True
    return True


def forget(running: torch.Tensor) -> None:
    """It may have seen nothing now."""
    _seen.pop(running, None)


# --- positions ----------------------------------------------------------------------------------------------

_GATHER = 0x0102040810204080
"""Eight bytes of 0 or 1, as one number, times this have those eight bits in the uppermost byte."""


def pack_positions(chosen: torch.Tensor, out: torch.Tensor) -> None:
    """A bit for each element, 1 at the chosen positions, the lowest bit first, into ceil(elements / 8) bytes."""
    mask = torch.zeros(1, out.numel() * 8, dtype=torch.bool)
    mask.view(torch.uint8).view(-1)[chosen] = 1
    pack_masks(mask, out.view(1, -1))


def pack_masks(masks: torch.Tensor, out: torch.Tensor) -> None:
    """The bits of rows of masks, whose length is a multiple of 8; the masks are used up."""
    eights = masks.view(torch.uint8).view(torch.int64)
    out.copy_(eights.mul_(_GATHER).bitwise_right_shift_(56))


def unpack_mask(bits: torch.Tensor, elements: int) -> torch.Tensor:
    """Rows of masks, of rows of bytes."""
    eights = _eights(bits.device).index_select(0, bits.reshape(-1).to(torch.int32))
    return eights.view(torch.bool).view(len(bits), -1)[:, :elements]


@lru_cache(maxsize=8)
def _eights(device: torch.device) -> torch.Tensor:
    """For each byte its eight bits, as eight bytes in one number."""
    byte, bit = torch.arange(256).unsqueeze(1), torch.arange(8)
    return (byte >> bit & 1).to(torch.uint8).view(torch.int64).view(-1).to(device)


# --- thresholds -----------------------------------------------------------------------------------------

_SAMPLE = 4096
"""Elements, about, of which a sample tells where a threshold lies."""

_STRIDES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 37, 53, 71, 101, 151, 211, 307, 499, 997)
"""Distances of sampled elements: primes, so that a sample has elements of all channels."""


def largest(x: torch.Tensor, count: int) -> torch.Tensor:
    """Positions, in order, of exactly ``count`` elements of the largest magnitude of a flat tensor; of equal ones, the
    first.

    Exact and fast: a sample tells a magnitude that a few more than ``count`` elements reach, and only these are
    searched for the threshold (if the sample misled, and fewer do, all are). Magnitudes are compared as their bits,
    which are ordered alike, so that what is not a number is the largest.
    """
    if count >= x.numel():
        return torch.arange(x.numel())
    return torch.from_numpy(_largest(_magnitudes(x).numpy(), count))


def _bits(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A tensor's bits as whole numbers, and the mask of those of the magnitude."""
    return (x.view(torch.int32), 0x7FFFFFFF) if x.dtype == torch.float32 else (x.view(torch.int16), 0x7FFF)


def _magnitudes(x: torch.Tensor) -> torch.Tensor:
    """Bits of the magnitudes, as whole numbers (on so few, NumPy is faster than waking torch's threads)."""
    bits, mask = _bits(x)
    out = torch.empty_like(bits)
    np.bitwise_and(bits.numpy(), mask, out=out.numpy())
    return out


def _largest(magnitudes: Whole, count: int) -> Whole:
    candidates = _reaching(magnitudes, _probable(magnitudes, count))
    if len(candidates) < count:
        candidates = np.arange(len(magnitudes))
    excess = len(candidates) - count
    if not excess:
        return candidates
    values = magnitudes[candidates]
    threshold = np.partition(values, excess)[excess]
    kept = values >= threshold
    ties = np.flatnonzero(values == threshold)
    kept[ties[len(ties) - (int(kept.sum()) - count) :]] = False
    found: Whole = candidates[kept]
    return found


def _probable(magnitudes: Whole, count: int) -> Any:
    """A magnitude that, probably, a few more than ``count`` elements reach."""
    if len(magnitudes) < 2 * _SAMPLE:
        return 0
    sample = magnitudes[:: next((s for s in _STRIDES if s * _SAMPLE >= len(magnitudes)), _STRIDES[-1])]
    share = count * len(sample) / len(magnitudes)
    rank = len(sample) - int(share + 3 * math.sqrt(share) + 2)
    return np.partition(sample, rank)[rank] if rank > 0 else 0


def _reaching(magnitudes: Whole, edge: Any) -> Whole:
    """Positions of what is not below an edge."""
    mask = torch.empty(len(magnitudes), dtype=torch.bool)
    return np.flatnonzero(np.greater_equal(magnitudes, edge, out=mask.numpy()))


def largest_of_rows(x: torch.Tensor, count: int) -> torch.Tensor:
    """The same for every row of a matrix at once, as masks, by operations that do not wait for a device.

    A row's threshold is the largest magnitude that ``count`` elements reach: found one bit after another.
    """
    bits, mask = _bits(x)
    magnitudes = bits & mask
    threshold = magnitudes.new_zeros(len(x), 1)
    for bit in reversed(range(torch.iinfo(magnitudes.dtype).bits - 1)):
        higher = threshold | (1 << bit)
        threshold = torch.where((magnitudes >= higher).sum(1, keepdim=True) >= count, higher, threshold)
    chosen, ties = magnitudes >= threshold, magnitudes == threshold
    excess = chosen.sum(1, keepdim=True) - count
    from_here = ties.flip(1).cumsum(1, dtype=torch.int32).flip(1)  # of equal ones, the last are too many
    return chosen.logical_and_((ties & (from_here <= excess)).logical_not_())


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


_TURNS = 4
"""Numbers that one draw serves."""


def round_stochastically(x: torch.Tensor, levels: int) -> None:
    """Stochastic rounding, in place: up with a probability that is the fraction, else down.

    The whole part of the result is the rounded number, within 0 to ``levels``; whoever packs it cuts off the rest.
    The random numbers have 16 bits, as fine as fp32 tells numbers up to 255 apart. Each of them serves four numbers
    that lie far apart, shifted by a quarter of its range for each, so that it is uniform for all four (systematic
    sampling). That makes drawing cheap.
    """
    flat = x.view(-1)
    count = -(-len(flat) // _TURNS)
    drawn = (
        torch.empty(-(-count // 4), dtype=torch.int64, device=x.device)
        .random_(-(2**63), None)
        .view(torch.int16)
    )
    for part in flat.split(count):
        part.add_(drawn[: len(part)].to(torch.float32), alpha=2**-16)
        drawn.add_(2**16 // _TURNS)
    x.add_(0.5 + 2**-17).clamp_(0, levels)


def pack_numbers(numbers: torch.Tensor, bits: int, out: torch.Tensor) -> None:
    """The whole parts of rows of numbers, in few bits: those of the first part of a row lie in the lowest bits."""
    whole = numbers.to(torch.int32)  # straight to bytes takes twice as long
    if bits == 8:
        out.copy_(whole)
        return
    span = out.shape[1]
    out.copy_(whole[:, :span])
    for place, piece in enumerate(whole.split(span, dim=1)[1:], start=1):
        out[:, : piece.shape[1]].bitwise_or_((piece << (bits * place)).to(torch.uint8))


def unpack_numbers(packed: torch.Tensor, bits: int, out: torch.Tensor) -> None:
    """The rows of numbers that ``pack_numbers`` packed."""
    if bits == 8:
        out.copy_(packed)
        return
    for place, piece in enumerate(out.split(packed.shape[1], dim=1)):
        piece.copy_((packed[:, : piece.shape[1]] >> (bits * place)).bitwise_and_(2**bits - 1))


def quantize_rows(x: torch.Tensor, bits: int, out: torch.Tensor, ranges: torch.Tensor) -> None:
    """Rows of values in few bits, each row within its own range, (rows, 2)."""
    levels = 2**bits - 1
    ranges[:, 0] = x.amin(1)
    ranges[:, 1] = x.amax(1)
    ranges[:, 1] -= ranges[:, 0]
    scaled = x.float().sub_(ranges[:, :1]).mul_(inverse(ranges[:, 1:], levels))
    round_stochastically(scaled, levels)
    pack_numbers(scaled, bits, out)


def dequantize_rows(packed: torch.Tensor, bits: int, ranges: torch.Tensor, count: int) -> torch.Tensor:
    """The values, ``count`` a row, that ``quantize_rows`` packed."""
    x = torch.empty(len(packed), count, dtype=torch.float32, device=packed.device)
    unpack_numbers(packed, bits, x)
    return x.mul_(ranges[:, 1:] / (2**bits - 1)).add_(ranges[:, :1])
