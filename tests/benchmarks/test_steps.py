"""Predictions beside real steps, as a table."""

from __future__ import annotations

import json

import pytest

from benchmarks.steps import compare, compared, show, spread_over
from bsr_explorer.config import Config

CONFIG = Config("deit_t", 32, 10, 2, method="linear")


def test_a_row_says_what_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = compared([CONFIG], 10)
    assert row["saved off"] == row["FLOPs off"] == row["held off"] == 0 and row["off"] is False
    with pytest.raises(SystemExit) as end:
        show([row], as_json=True)
    assert end.value.code == 0 and json.loads(capsys.readouterr().out) == [row]


def test_what_is_refused_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    row = compare(CONFIG.with_method("last(k=99)"))
    assert row["off"] and "last" in row["why"]
    with pytest.raises(SystemExit) as end:
        show([row], as_json=False)
    assert end.value.code == 1 and "1 off" in capsys.readouterr().out


def test_nothing_is_begun_when_the_time_is_over() -> None:
    assert list(compared([CONFIG], -1)) == []


def test_some_of_many_are_spread_over_all() -> None:
    many = [Config("deit_t", 32, 10, batch, method="linear") for batch in range(1, 11)]
    assert [each.batch_size for each in spread_over(many, 3)] == [1, 4, 7]
    assert spread_over(many, None) == spread_over(many, 10) == many
