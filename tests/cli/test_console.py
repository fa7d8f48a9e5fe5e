"""Times, tables and errors as they are read and printed."""

from __future__ import annotations

import sys
from io import StringIO
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bsr_explorer.cli import console
from bsr_explorer.cli.console import driver_answers, fail, format_seconds, parse_seconds, resolved, table
from bsr_explorer.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90", 90), ("90s", 90), ("1.5m", 90), (".5m", 30), ("2min", 120), ("1h", 3600), (" 10 m ", 600)),
        ("0.001s", 0.001),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "0", "0h", "-1m", "ten", "10 minutes", "1h30m", "1e3", "inf", "nan", "5d", "1,5h"]
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_seconds(text)
    assert str(error.value) == f"--time-limit: cannot read {text!r}; write a time such as 90s, 10m or 1h"


@given(st.integers(1, 10_000), st.sampled_from(["", "s", "m", "min", "h"]))
def test_whole_times_are_read_exactly(number: int, unit: str) -> None:
    factor = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}[unit]
    assert parse_seconds(f"{number}{unit}") == number * factor


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (0.4, "0 s"), (42.4, "42 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s")),
        *((450, "7 min 30 s"), (3599.4, "59 min 59 s"), (3600, "1 h 00 min"), (7530, "2 h 05 min")),
    ],
)
def test_times_are_written(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize("code", [2, 130])
def test_failing_is_one_line(capsys: pytest.CaptureFixture[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        fail("one\n  two\tthree", code)
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err) == (code, "", "error: one two three\n")


def shown(width: int, rows: list[list[str]], **options: Any) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(table(["method", "MB"], rows, **options))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_numbers_are_aligned_to_the_right() -> None:
    assert shown(40, [["a", "1"], ["bb", "1,000"]]) == ["method     MB", "a           1", "bb      1,000"]


def test_nothing_is_cut_off() -> None:
    long = " ".join(str(number) for number in range(40))
    lines = shown(30, [[long, "end"]], fold=[0])
    assert len(lines) > 3
    assert [word for word in " ".join(lines[1:]).split() if word != "end"] == long.split()


# --- devices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answers", "device"), [(False, "cpu"), (True, "cuda")])
def test_torch_is_asked_for_a_gpu_only_where_a_driver_answers(
    answers: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(console, "driver_answers", lambda: answers)
    assert resolved("auto") == "cuda"  # of a torch that is loaded anyway
    monkeypatch.delitem(sys.modules, "torch")
    assert resolved("auto") == device


def test_a_gpu_that_torch_finds_has_a_driver() -> None:
    assert driver_answers() or not torch.cuda.is_available()


def test_no_other_device_is_known() -> None:
    with pytest.raises(UserError, match=r"--device: unknown device 'tpu'; choose auto, cpu or cuda"):
        resolved("tpu")
