"""Bits, thresholds and rounding: what packings are made of, on tensors only."""

from __future__ import annotations

from functools import lru_cache

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}



def copy_in_range(x: torch.Tensor, out: torch.Tensor) -> None:
    """Copy; what fp16 cannot hold becomes the largest number that it can, and not infinity."""
    out.copy_(x)
    if out.dtype == torch.float16 and x.dtype != torch.float16:
        largest = torch.finfo(torch.float16).max
        out.clamp_(-largest, largest)


# --- masks ----------------------------------------------------------------------------------------------

_GATHER = 0x0102040810204080
"""Eight bytes of 0 or 1, as one number, times this have those eight bits in the uppermost byte."""


def pack_mask(mask: torch.Tensor, out: torch.Tensor) -> None:
    """A bit for each element of a flat boolean mask, the lowest bit first, into ceil(elements / 8) bytes."""
    whole = mask.numel() // 8 * 8
    eights = mask[:whole].view(torch.uint8).view(torch.int64)
    out[: whole // 8].copy_((eights * _GATHER).bitwise_right_shift_(56))
    if whole < mask.numel():
        rest = mask[whole:].to(torch.uint8)
        out[-1] = (rest << torch.arange(len(rest), dtype=torch.uint8, device=mask.device)).sum()


def unpack_mask(bits: torch.Tensor, elements: int) -> torch.Tensor:
    """The mask that ``pack_mask`` packed."""
    eights = _eights(bits.device).index_select(0, bits.to(torch.int32))
    return eights.view(torch.bool)[:elements]


@lru_cache(maxsize=8)
def _eights(device: torch.device) -> torch.Tensor:
    """For each byte its eight bits, as eight bytes in one number."""
    byte, bit = torch.arange(256).unsqueeze(1), torch.arange(8)
    return (byte >> bit & 1).to(torch.uint8).view(torch.int64).view(-1).to(device)


# --- thresholds -----------------------------------------------------------------------------------------


def largest(x: torch.Tensor, count: int) -> torch.Tensor:
    """Mask of exactly ``count`` elements of the largest magnitude of a flat tensor; of equal ones, the first.

    Exact and fast: magnitudes are ordered as their bits are, so the elements are counted by their upper
    15 bits (one pass), which tells in which of these bins the threshold lies; only that bin's few elements are
    searched for it. A 16-bit format has no more bits, and needs no search.
    """
    if count >= x.numel():
        return torch.ones_like(x, dtype=torch.bool)
    threshold, among_equals = _threshold(x, x.numel() - count)
    magnitudes = _bits(x)
    mask = magnitudes >= threshold
    if among_equals:
        equal = (magnitudes == threshold).nonzero().view(-1)
        mask[equal[-among_equals:]] = False
    return mask


def _bits(x: torch.Tensor) -> torch.Tensor:
    """Bits of the magnitudes, as whole numbers that are ordered alike."""
    if x.dtype == torch.float32:
        return x.view(torch.int32) & 0x7FFFFFFF
    return x.view(torch.int16) & 0x7FFF


def _threshold(x: torch.Tensor, rank: int) -> tuple[int, int]:
    """The magnitude's bits of this rank (0-based, ascending), and how many equal ones rank below it."""
    wide = x.dtype == torch.float32
    upper = x.view(torch.int16)[1::2] & 0x7FFF if wide else _bits(x)  # little-endian: the upper half is second
    until = torch.bincount(upper, minlength=2**15).cumsum_(0)
    bin_ = int((until <= rank).sum())
    rank -= int(until[bin_ - 1]) if bin_ else 0
    if not wide:
        return bin_, rank
    del until
    inside = _bits(x[upper == bin_])
    threshold = inside.kthvalue(rank + 1).values
    return int(threshold), rank - int((inside < threshold).sum())


# --- few bits -------------------------------------------------------------------------------------------


def current_ranges(grouped: torch.Tensor, channels: bool, out: torch.Tensor) -> None:
    """Smallest value and range of each group, into (2, groups).

    Args:
        grouped: (images, …, groups, within) if ``channels``, else (images, groups, within, …).
    """
    groups = out.shape[1]
    if channels:
        rows = grouped.reshape(-1, groups * grouped.shape[-1])
        low, high = (part.view(groups, -1) for part in torch.aminmax(rows, dim=0))
        dim = 1
    else:
        rows = grouped.reshape(len(grouped) * groups, -1)
        low, high = (part.view(-1, groups) for part in torch.aminmax(rows, dim=1))
        dim = 0
    out[0].copy_(low.amin(dim))
    out[1].copy_(high.amax(dim)).sub_(out[0])


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
