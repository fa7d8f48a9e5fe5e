"""A comparison's table: numbers and ratios are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import pytest

from bsr_explorer.report.comparison.line import lines_of
from bsr_explorer.report.comparison.table import by_task, readable, row
from bsr_explorer.report.comparison.write import Report, report
from bsr_explorer.store.comparison_folder import StepTimes, read_step_times
from bsr_explorer.store.records import read_records

MakeComparison = Callable[..., Any]


def test_accuracy_is_the_mean_and_deviation_over_seeds(written: tuple[Path, Report]) -> None:
    folder, made = written
    records = list(read_records(folder).values())
    for line, each in zip(made.lines, made.rows, strict=True):
        scores = [r.accuracy for r in records if r.key == line.entry.key and r.accuracy is not None]
        assert (each["status"], each["runs"]) == ("finished", 2)
        assert each["accuracy"] == pytest.approx(mean(scores))
        assert each["accuracy_std"] == pytest.approx(stdev(scores))
        assert each["accuracy_minus_full"] == pytest.approx(each["accuracy"] - made.rows[0]["accuracy"])


def test_ratios_are_to_full_fine_tuning(written: tuple[Path, Report]) -> None:
    folder, made = written
    full, times = made.comparison.full, read_step_times(folder).seconds
    for line, each in zip(made.lines, made.rows, strict=True):
        for kind in ("peak_bytes", "saved_bytes", "counted_bytes"):
            ratio = each[kind.replace("bytes", "full_over_this")]
            assert ratio == pytest.approx(getattr(full, kind) / getattr(line.entry, kind))
        assert each["train_flops_over_full"] == pytest.approx(line.entry.train_flops / full.train_flops)
        mine, fulls = times[line.entry.key], times[full.key]
        assert each["step_seconds"] == median(mine)
        assert each["step_seconds_over_full"] == median(a / b for a, b in zip(mine, fulls, strict=True))
    first = made.rows[0]
    assert {first[key] for key in first if key.endswith(("over_full", "over_this"))} == {1.0, None}
    assert made.rows[1]["peak_full_over_this"] > 1 > made.rows[1]["train_flops_over_full"]


def test_time_is_compared_round_by_round(make_comparison: MakeComparison) -> None:
    made = make_comparison("full, linear")
    full, linear = made.entries
    times = StepTimes({full.key: [1.0, 10.0, 1.0], linear.key: [0.5, 2.0, 0.4]})
    lines = lines_of(made, {}, times)
    each = row(lines[1], lines, made)
    assert (each["step_seconds"], each["step_seconds_over_full"]) == (0.5, 0.4)


def test_batches_are_compared_under_a_budget(make_comparison: MakeComparison) -> None:
    made = make_comparison("full, linear", budget="2500KB")
    lines = lines_of(made, {}, StepTimes())
    full, linear = (row(line, lines, made) for line in lines)
    assert linear["largest_batch_over_full"] == linear["largest_batch"] / full["largest_batch"] > 1


def test_without_full_its_predictions_are_still_the_reference(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    made = make_comparison("linear")
    made.write(compared_folder)
    (each,) = report(compared_folder).rows
    assert each["accuracy"] is not None
    assert each["peak_full_over_this"] == made.full.peak_bytes / made.entries[0].peak_bytes
    assert each["train_flops_over_full"] == made.entries[0].train_flops / made.full.train_flops
    absent = ("accuracy_minus_full", "accuracy_over_full", "step_seconds_over_full")
    assert [each[key] for key in absent] == [None] * 3
    assert each["step_seconds"] is not None


def test_the_published_accounting_stands_beside_the_truth(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    make_comparison("full, last(k=1), mesa").write(compared_folder)
    made = report(compared_folder)
    full, last, mesa = made.rows
    assert full["published_bytes"] > last["published_bytes"]
    assert last["published_full_over_this"] == full["published_bytes"] / last["published_bytes"]
    assert (mesa["published_bytes"], mesa["published_full_over_this"]) == (None, None)
    page = (compared_folder / "comparison.md").read_text()
    row = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert f"{last['published_full_over_this']:.2f}x less" in row["last(k=1)"]
    assert [cell.strip() for cell in row[made.rows[2]["method"]].split("|")].count("—") == 3
    assert "Published: the BSR paper's own accounting" in page


def test_each_task_has_a_column(written: tuple[Path, Report]) -> None:
    folder, made = written
    assert by_task(made.rows[0]) == {}
    records = list(read_records(folder).values())
    found = {
        number: replace(record, accuracy_by_task={"a": 0.25, "b": number / 100})
        for number, record in enumerate(records)
    }
    lines = lines_of(made.comparison, found, read_step_times(folder))
    rows = [row(line, lines, made.comparison) for line in lines]
    for line, each in zip(lines, rows, strict=True):
        assert by_task(each) == {
            "a": 0.25,
            "b": pytest.approx(mean(r.accuracy_by_task["b"] for r in line.runs)),
        }
    frame = readable(rows, made.comparison)
    assert list(frame["a (%)"]) == ["25.0"] * len(rows)
    del rows[1]["accuracy of a"]  # it was not trained
    assert list(readable(rows, made.comparison)["a (%)"])[1] == ""
