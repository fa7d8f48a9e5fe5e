"""What a training came to, on the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.cli.training_shown import said_of_steps, show_trained
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.units import format_mb


@pytest.fixture(scope="module")
def record(finished_once: Path) -> Record:
    return read_records(finished_once)[0]


def said(record: Record, capsys: pytest.CaptureFixture[str]) -> str:
    show_trained(record, [Path("runs/small/model.safetensors")], "Written:")
    return " ".join(capsys.readouterr().out.split())


def test_its_accuracy_and_files_are_said(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    assert record.accuracy is not None
    shown = said(replace(record, test_accuracy=None), capsys)
    assert shown.startswith(f"accuracy {100 * record.accuracy:.1f}% ({record.accuracy_is}); ")
    assert f"{record.images_trained:,} images in " in shown
    assert shown.endswith("Written: runs/small/model.safetensors")


def test_the_test_set_is_said_where_it_was_looked_at(
    record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"({record.accuracy_is}), 12.5% on test; " in said(replace(record, test_accuracy=0.125), capsys)


def test_memory_stands_beside_its_prediction(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    measured = {"image_size": 32, "peak_bytes": 3_000_000, "predicted_peak_bytes": 2_000_000}
    shown = said(replace(record, measured=measured), capsys)
    assert f"peak {format_mb(2_000_000)} {format_mb(3_000_000)} +1,000,000 bytes" in shown
    assert "saved " not in shown
    assert "predicted MB" not in said(replace(record, measured=None), capsys)


def test_a_fault_is_said_as_it_is(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    assert record.measured is not None
    measured = {**record.measured, "fault": "far off [bold]its[/bold] prediction"}
    assert "far off [bold]its[/bold] prediction" in said(replace(record, measured=measured), capsys)


def test_where_steps_differed_it_is_said_how_and_whether_they_were_as_predicted() -> None:
    steps = {
        "shapes": 12,
        "saved_off": 1,
        "peaks": 8,
        "peaks_off": 0,
        "saved_bytes": {"least": 1_000_000, "mean": 2_500_000, "most": 3_000_000},
        "train_flops": 5,
    }
    assert said_of_steps(steps) == (
        "steps differed: 12 kinds, which saved 1.0 to 3.0 MB, 2.5 on average; "
        "not as predicted: 1 of 12, and 0 of 8 peaks"
    )


def test_the_accuracy_of_each_task_is_said(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(replace(record, accuracy_by_task={"digits": 0.5, "turned(digits)": 0.125}), capsys)
    assert "by task: digits 50.0%, turned(digits) 12.5%" in shown
    assert "by task" not in said(record, capsys)
