"""What is said of a comparison in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bsr_explorer.config import Fidelity
from bsr_explorer.report.comparison.write import report
from bsr_explorer.store.comparison_folder import StepTimes, read_step_times
from bsr_explorer.store.records import read_records, write_record

MakeComparison = Callable[..., Any]


def test_images_of_the_own_size_are_no_proxy(make_comparison: MakeComparison) -> None:
    from bsr_explorer.report.comparison.said import described

    made = make_comparison()
    assert "proxy" not in described(replace(made, fidelity={**made.fidelity, "image_size": 48}))[1]


def test_what_is_left_open_is_said(make_comparison: MakeComparison) -> None:
    from bsr_explorer.report.comparison.said import described

    said = described(make_comparison(fidelity=Fidelity(recipe="short")))[1]
    assert said.startswith(
        "To be trained on all images of digits at 48 px; the recipe’s epochs, recipe short, all"
    )


def test_what_went_wrong_is_told(compared_folder: Path) -> None:
    records = read_records(compared_folder)
    for number in (1, 4):
        lost = {"accuracy": None, "measured": None, "reason": "the loss was nan"}
        write_record(compared_folder, number, replace(records[number], status="diverged", **lost))
    assert records[3].measured is not None
    write_record(
        compared_folder, 3, replace(records[3], measured={**records[3].measured, "fault": "far off"})
    )
    times = read_step_times(compared_folder)
    key = records[2].key
    seconds = {k: taken for k, taken in times.seconds.items() if k != key}
    StepTimes(seconds, {key: "RuntimeError: no memory"}).write(compared_folder)
    made = report(compared_folder)
    assert made.notes == [
        "full, seed 1: far off",
        "linear, seed 0: diverged, the loss was nan",
        "linear, seed 1: diverged, the loss was nan",
        "last(k=1): steps were not timed, RuntimeError: no memory",
    ]
    assert [(each["status"], each["runs"]) for each in made.rows] == [
        ("finished", 2),
        ("diverged", 0),
        ("finished", 2),
    ]
    assert made.rows[2]["step_seconds"] is None
    page = (compared_folder / "comparison.md").read_text()
    assert all(f"- {note}\n" in page for note in made.notes)
