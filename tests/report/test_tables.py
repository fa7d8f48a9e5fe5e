"""Tables: one row a trial, unscaled; and the front, scaled for reading."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from bsr_explorer.report.front import front, points
from bsr_explorer.report.tables import front_frame, front_markdown, markdown, trials_frame
from bsr_explorer.store.records import read_records

COLUMNS = [
    *("trial", "replica", "status", "method", "accuracy", "counted_bytes", "held_bytes", "saved_bytes"),
    *("peak_bytes", "forward_flops", "train_flops", "image_size", "trained_at"),
    *("trained_saved_bytes_predicted", "trained_saved_bytes_measured"),
    *("trained_peak_bytes_predicted", "trained_peak_bytes_measured", "seconds", "images_trained"),
    *("seed", "weights", "reason"),
]


def test_every_trial_has_a_row(finished_once: Path) -> None:
    records = read_records(finished_once)
    records[9] = replace(
        records[0], status="failed", accuracy=None, measured=None, predicted={}, reason="why not", weights=""
    )
    frame = trials_frame(records)
    assert list(frame.columns) == COLUMNS
    assert list(frame["trial"]) == [*range(7), 9]
    assert list(frame["status"]) == ["finished"] * 7 + ["failed"]
    assert list(frame["accuracy"][:7]) == [
        record.accuracy for number, record in records.items() if number < 7
    ]
    assert list(frame["counted_bytes"][:7]) == list(frame["peak_bytes"][:7])
    assert list(frame["trained_saved_bytes_measured"][:7]) == list(frame["trained_saved_bytes_predicted"][:7])
    peaks = zip(
        frame["trained_peak_bytes_measured"][:7], frame["trained_peak_bytes_predicted"][:7], strict=True
    )
    assert all(measured == pytest.approx(predicted, rel=1e-3) for measured, predicted in peaks)
    assert set(frame["image_size"]) == {48}
    assert set(frame["trained_at"]) == {32}
    last = frame.iloc[-1]
    assert last["reason"] == "why not"
    assert all(
        pd.isna(last[column]) for column in ("accuracy", "saved_bytes", "trained_saved_bytes_measured")
    )


def test_bytes_in_the_table_are_whole_numbers(finished_once: Path) -> None:
    text = trials_frame(read_records(finished_once)).to_csv(index=False)
    frame = pd.read_csv(StringIO(text))
    for column in (
        "counted_bytes",
        "held_bytes",
        "saved_bytes",
        "train_flops",
        "trained_saved_bytes_measured",
        "trained_peak_bytes_measured",
        "peak_bytes",
    ):
        assert frame[column].dtype == "int64"


def test_bytes_stay_whole_numbers_beside_a_failed_trial(finished_once: Path) -> None:
    records = read_records(finished_once)
    records[9] = replace(records[0], status="failed", accuracy=None, measured=None)
    text = trials_frame(records).to_csv(index=False)
    assert f",{(records[0].measured or {})['saved_bytes']}," in text


def test_the_front_is_scaled(finished_once: Path) -> None:
    ahead = front(points(read_records(finished_once)))
    frame = front_frame(ahead)
    assert list(frame.columns) == [
        *("trial", "seeds", "accuracy (%)", "std (points)", "memory (MB)", "memory (MiB)", "saving (×)"),
        *("train GFLOPs/step", "compute saving (×)", "method"),
    ]
    for row, point in zip(frame.to_dict("records"), ahead, strict=True):
        assert row["trial"] == point.number
        assert row["accuracy (%)"] == pytest.approx(100 * point.accuracy)
        assert (row["seeds"], row["std (points)"]) == (1, None)
        assert row["memory (MB)"] == round(point.bytes / 1e6, 1)
        assert row["memory (MiB)"] == round(point.bytes / 2**20, 1)
        assert row["saving (×)"] == round(point.full["counted_bytes"] / point.bytes, 2)
        assert row["method"] == point.method
    assert frame["memory (MB)"].is_monotonic_increasing
    assert frame["accuracy (%)"].is_monotonic_increasing


def test_the_front_says_how_sure_it_is(finished_once: Path) -> None:
    ahead = front(points(read_records(finished_once)))
    sure = replace(ahead[-1], accuracy=0.85, deviation=0.0123, seeds=3)
    frame = front_frame([*ahead[:-1], sure])
    assert list(frame["seeds"]) == [1] * (len(ahead) - 1) + [3]
    assert list(frame["std (points)"])[-1] == 1.23
    assert frame["std (points)"].isna().sum() == len(ahead) - 1
    text = front_markdown([*ahead[:-1], sure])
    assert "85.00 ± 1.23" in text.splitlines()[-1]
    assert [cell.strip() for cell in text.splitlines()[0].split("|")][1:4] == [
        *("trial", "seeds", "accuracy (%)")
    ]
    assert "seeds" not in front_markdown(ahead)
    assert "±" not in front_markdown(ahead)


def test_markdown_shows_methods_as_code(finished_once: Path) -> None:
    ahead = front(points(read_records(finished_once)))
    frame = front_frame(ahead)
    text = markdown(frame)
    assert len(text.splitlines()) == 2 + len(ahead)
    assert all(f"`{point.method}`" in text for point in ahead)
    assert list(frame["method"]) == [point.method for point in ahead]  # as it was


def test_cells_of_text_stay_as_they_are() -> None:
    frame = pd.DataFrame(
        [{"method": "full", "memory (MB)": "90.0"}, {"method": "bsr", "memory (MB)": "1,247.4"}]
    )
    lines = markdown(frame, as_text=True).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["90.0", "1,247.4"]
    assert lines[1].replace("-", "") == "|:|:|"
