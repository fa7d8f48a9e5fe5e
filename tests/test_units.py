"""Quantities as people write them, and as they read them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.errors import UserError
from bsr_explorer.units import (
    BYTE_UNITS,
    format_bytes,
    format_flops,
    format_gflops,
    format_less,
    format_number,
    format_round,
    in_gmacs,
    in_mb,
    in_mib,
    parse_bytes,
    plural,
    spans,
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


def test_a_small_budget_is_not_printed_as_none() -> None:
    assert format_bytes(5_300) == "0.0053 MB (0.0051 MiB)"
    assert format_bytes(0) == "0.0 MB (0.0 MiB)"


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        *(
            (0.25, 0, "0.25"),
            (0.00642, 0, "0.0064"),
            (1.53, 0, "1.5"),
            (15.3, 0, "15"),
            (1234.5, 1, "1,234.5"),
        ),
        *((0.0, 0, "0"), (0.0, 2, "0.00"), (2.0, 0, "2"), (4, 0, "4"), (1784, 0, "1,784"), (0.5, 1, "0.50")),
        *((9.96, 0, "10"), (0.0996, 1, "0.10"), (-0.034, 1, "-0.034"), (5e-9, 3, "0.0000000050")),
    ],
)
def test_a_number_keeps_its_first_two_digits(value: float, decimals: int, text: str) -> None:
    assert format_number(value, decimals) == text


@given(st.floats(1e-9, 1e12), st.integers(0, 4))
def test_no_number_is_more_than_a_twentieth_off(value: float, decimals: int) -> None:
    assert float(format_number(value, decimals).replace(",", "")) == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.5, "0.5"),
        (0.6000000000000001, "0.6"),
        (20.0, "20"),
        (1500.0, "1,500"),
        (3e-5, "0.00003"),
    ],
)
def test_a_round_number_is_written_as_it_is(value: float, text: str) -> None:
    assert format_round(value) == text


def test_a_step_of_a_small_model_has_flops() -> None:
    assert format_gflops(5_900_000, 0) == "0.0059"
    assert format_flops(250_000_000) == "0.250 GFLOPs"


def test_one_is_no_plural() -> None:
    assert [plural(count, "epoch") for count in (0, 1, 2, 1200)] == [
        *("0 epochs", "1 epoch", "2 epochs", "1,200 epochs")
    ]


def test_flops_are_printed_in_billions() -> None:
    assert format_flops(15_286_256_640) == "15.286 GFLOPs"


def test_a_multiply_add_is_two_flops() -> None:
    assert in_gmacs(9_200_000_000) == 4.6


@given(st.sets(st.integers(0, 30)))
def test_spans_say_each_number_once(numbers: set[int]) -> None:
    said = [part.split("–") for part in spans(numbers).split(", ")] if numbers else []
    spread = [list(range(int(ends[0]), int(ends[-1]) + 1)) for ends in said]
    assert sum(spread, []) == sorted(numbers)  # noqa: RUF017  # short lists
    assert all(mine[-1] + 1 < theirs[0] for mine, theirs in pairwise(spread))


def test_spans_are_joined() -> None:
    assert spans([9, 0, 1, 2]) == "0–2, 9"


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (2.734, "2.73x less"),
        (1.0, "1.00x less"),
        (0.996, "1.00x less"),
        (0.763, "1.31x more"),
        (0.01, "100.00x more"),
    ],
)
def test_what_is_no_less_is_said_as_more(ratio: float, said: str) -> None:
    assert format_less(ratio) == said
