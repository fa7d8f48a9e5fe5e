"""A comparison's folder: written, read again, and told apart from others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import HELD_OUT
from bsr_explorer.errors import UserError
from bsr_explorer.store.comparison_folder import (
    FILE,
    STEPS,
    Comparison,
    Entry,
    StepTimes,
    read_comparison,
    read_runs,
    read_step_times,
)

MakeComparison = Callable[..., Comparison]


def entries(*keys: str) -> list[Entry]:
    return [Entry(key, key, key, 1, 1, 1, 1, True, None) for key in keys]


# --- what is compared -----------------------------------------------------------------------------------


def test_a_comparison_is_read_as_it_was_written(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = make_comparison(budget="1400KB")
    made.write(tmp_path)
    assert read_comparison(tmp_path) == made
    assert [entry.method for entry in made.fitting] == ["linear", "last(k=1)"]
    assert (made.trained_at, made.protocol) == (32, HELD_OUT)


def test_where_there_is_none_none_is_read(tmp_path: Path) -> None:
    assert read_comparison(tmp_path) is None
    assert read_step_times(tmp_path) == StepTimes()


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"full": 1}'])
def test_what_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=r"comparison\.json: not a comparison .*; move it away to go on"):
        read_comparison(tmp_path)


@pytest.mark.parametrize("seeds", [0, -1, 1.5, True])
def test_seeds_are_a_number_of_runs(make_comparison: MakeComparison, seeds: Any) -> None:
    with pytest.raises(UserError, match=r"--seeds: .* must be a whole number of at least 1"):
        replace(make_comparison(), seeds=seeds)


def test_what_is_left_open_is_as_it_was_decided(make_comparison: MakeComparison) -> None:
    stored = make_comparison()
    opened = replace(stored, weights="auto", fidelity={**stored.fidelity, "epochs": None})
    assert stored.settled
    assert not opened.settled
    assert opened.completed_by(stored) == stored


def test_what_makes_runs_incomparable_is_told_by_its_key(make_comparison: MakeComparison) -> None:
    made = make_comparison()
    other = replace(made, data="cifar10", fidelity={**made.fidelity, "epochs": 2})
    assert made.differences(made) == []
    assert made.differences(other) == ["data: 'digits' → 'cifar10'", "fidelity.epochs: 1 → 2"]


def test_a_record_of_something_else_is_refused(
    make_comparison: MakeComparison, compared_folder: Path
) -> None:
    made = make_comparison()
    assert len(read_runs(made, compared_folder)) == 6
    with pytest.raises(UserError, match=r"--out: .*/records/0000\.json is not of this comparison"):
        read_runs(replace(made, data="cifar10"), compared_folder)


# --- how long steps took --------------------------------------------------------------------------------


def test_step_times_are_read_as_they_were_written(tmp_path: Path) -> None:
    times = StepTimes({"a": [1.0, 2.0], "b": [3.0]}, {"c": "no memory"}, {"torch": "2"})
    times.write(tmp_path)
    assert read_step_times(tmp_path) == times
    assert times.rounds == 1


def test_step_times_cover_what_was_timed_or_failed() -> None:
    times = StepTimes({"a": [1.0, 2.0], "b": [3.0, 1.0]}, {"c": "no memory"})
    assert times.covers(entries("a", "c"), 2)
    assert not times.covers(entries("a", "b"), 3)
    assert not times.covers(entries("a", "d"), 1)
    assert StepTimes(failed={"c": "no memory"}).covers(
        entries("c"), 5
    )  # nothing that could be timed more often
    assert StepTimes().rounds == 0


@pytest.mark.parametrize("text", ["", "[1]", '{"minutes": {}}'])
def test_what_are_no_step_times_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / STEPS).write_text(text)
    with pytest.raises(UserError, match=r"not the times of steps .*; move it away to go on"):
        read_step_times(tmp_path)
