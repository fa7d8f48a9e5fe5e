"""Quantities as people write them, and as they read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.errors import UserError
from bsr_explorer.units import (
    BYTE_UNITS,
    format_bytes,
    format_flops,
    in_gmacs,
    in_mb,
    in_mib,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2_000_000_000),
        ("2GiB", 2_147_483_648),
        ("512 MiB", 536_870_912),
        (" 1.5KB ", 1_500),
        (".5KiB", 512),
        ("7B", 7),
        ("1TB", 10**12),
        ("1TiB", 2**40),
    ],
)
def test_quantities_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2000", "has no unit"),
        ("2gb", "'gb'"),
        ("2 Gigabytes", "'Gigabytes'"),
        ("GB", "cannot read 'GB'"),
        ("-2GB", "cannot read '-2GB'"),
        ("1e3MB", "cannot read '1e3MB'"),
        ("", "cannot read ''"),
        ("0GB", "no memory at all"),
        ("0.1B", "no memory at all"),
    ],
)
def test_what_is_no_quantity_is_refused_under_its_key(text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_bytes(text, key="--limit")
    assert str(error.value).startswith("--limit: ")
    assert says in str(error.value)


@given(number=st.integers(1, 4096), unit=st.sampled_from(sorted(BYTE_UNITS)))
def test_whole_quantities_are_read_exactly(number: int, unit: str) -> None:
    assert parse_bytes(f"{number}{unit}") == number * BYTE_UNITS[unit]


def test_mega_is_decimal_and_mebi_binary() -> None:
    assert in_mb(5_000_000) == 5.0
    assert in_mib(5 * 2**20) == 5.0


def test_a_budget_is_printed_in_both_units() -> None:
    assert format_bytes(2**31) == "2,147.5 MB (2,048.0 MiB)"


def test_flops_are_printed_in_billions() -> None:
    assert format_flops(15_286_256_640) == "15.286 GFLOPs"


def test_a_multiply_add_is_two_flops() -> None:
    assert in_gmacs(9_200_000_000) == 4.6
