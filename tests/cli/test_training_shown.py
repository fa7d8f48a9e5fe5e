"""What a training came to, on the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.cli.training_shown import show_trained
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
