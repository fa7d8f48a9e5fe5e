"""Bytes, FLOPs and number widths: the only place where a conversion stands, and how numbers are written.

Everything inside the package is an ``int`` of bytes or of FLOPs (2 per multiply-add). Scaling happens
here, and only to print.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bsr_explorer.errors import UserError

BYTE_UNITS: dict[str, int] = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

TORCH = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What torch calls the number formats of floating-point numbers."""

WIDTH: dict[str, int] = {
    "fp32": 4,
    "bf16": 2,
    "fp16": 2,
    "int64": 8,
    "int32": 4,
    "fp64": 8,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of one element, by number format."""

FLOPS_PER_MAC = 2
"""A multiply-add is two floating-point operations, everywhere in this package."""

_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str, key: str = "--budget") -> int:
    """Bytes of a quantity with a unit: ``2GB`` is 2,000,000,000 and ``2GiB`` is 2,147,483,648.

    Raises:
        UserError: no number, no unit, an unknown unit, or nothing left after rounding to bytes.
    """
    match = _QUANTITY.fullmatch(text)
    units = ", ".join(BYTE_UNITS)
    if match is None:
        raise UserError(f"{key}: cannot read {text!r}; write a number and a unit, such as 2GB or 512MiB")
    number, unit = match.groups()
    if unit not in BYTE_UNITS:
        said = f"has no unit that says its size: {unit!r}" if unit else "has no unit"
        raise UserError(f"{key}: {text!r} {said}; write one of {units} (2GB = 2·10^9, 2GiB = 2^31 bytes)")
    if len(number) > 30:
        raise UserError(f"{key}: {text!r} is more memory than there is; write a quantity such as 2GB")
    size = round(float(number) * BYTE_UNITS[unit])
    if size <= 0:
        raise UserError(f"{key}: {text!r} is no memory at all; write a positive quantity such as 2GB")
    return size


def in_mb(size: int | float) -> float:
    """Bytes in megabytes (10^6)."""
    return size / BYTE_UNITS["MB"]


def in_mib(size: int | float) -> float:
    """Bytes in mebibytes (2^20)."""
    return size / BYTE_UNITS["MiB"]


def format_number(value: float, decimals: int = 0) -> str:
    """A number for reading: with so many decimals, or as many more as its first two digits take.

    ``1,234`` of 1234.4, ``0.25`` of 0.25 and ``0.0064`` of 0.00642, all with no decimals: only zero reads as zero.
    A whole number takes none.
    """
    if value % 1:
        place = int(f"{value:.1e}".partition("e")[2])  # of the first digit, once it is rounded to two
        decimals = max(decimals, 1 - place)
    return f"{value:,.{decimals}f}"


def format_less(ratio: float) -> str:
    """How many times less something is than what it is held against, ``2.73x less``; what is more, ``1.31x more``.

    Args:
        ratio: of the other to it.
    """
    if ratio <= 0 or round(ratio, 2) >= 1:
        return f"{format_number(ratio, 2)}x less"
    return f"{format_number(1 / ratio, 2)}x more"


def format_round(value: float) -> str:
    """A round number, such as an axis has, as it is: ``0.5``, ``1,500``."""
    whole, _, part = f"{value:,.12f}".partition(".")
    return f"{whole}.{part}".rstrip("0").rstrip(".")


def format_mb(size: int | float, decimals: int = 1) -> str:
    """Bytes in megabytes, without the unit; see ``format_number``."""
    return format_number(in_mb(size), decimals)


def format_mib(size: int | float, decimals: int = 1) -> str:
    """Bytes in mebibytes, without the unit; see ``format_number``."""
    return format_number(in_mib(size), decimals)


def format_bytes(size: int | float) -> str:
    """Both units, as wherever a budget is concerned: ``385.3 MB (367.4 MiB)``."""
    return f"{format_mb(size)} MB ({format_mib(size)} MiB)"


def format_gflops(flops: int | float, decimals: int = 1) -> str:
    """Billions of FLOPs (2 per multiply-add), without the unit; see ``format_number``."""
    return format_number(flops / 1e9, decimals)


def format_flops(flops: int) -> str:
    """GFLOPs with three decimals, 2 per multiply-add: ``442.468 GFLOPs``."""
    return f"{format_gflops(flops, 3)} GFLOPs"


def plural(count: int, noun: str) -> str:
    """``1 epoch``, ``1,200 epochs``: a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def some(count: int | None, noun: str, otherwise: str = "all") -> str:
    """The same, or where nothing says how many, ``all images``."""
    return plural(count, noun) if count else f"{otherwise} {noun}s"


def spans(numbers: Iterable[int]) -> str:
    """``0–6, 9`` of 0, 1, 2, 3, 4, 5, 6 and 9."""
    ends: list[list[int]] = []
    for number in sorted(numbers):
        if ends and ends[-1][1] == number - 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ", ".join(f"{low}" if low == high else f"{low}–{high}" for low, high in ends)


def in_gmacs(flops: int) -> float:
    """FLOPs in billions of multiply-adds."""
    return flops / FLOPS_PER_MAC / 1e9
