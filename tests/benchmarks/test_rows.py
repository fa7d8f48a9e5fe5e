"""Tables that grow by a line."""

from __future__ import annotations

from pathlib import Path

from benchmarks.rows import append_row, read_rows


def test_what_was_added_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    assert read_rows(file) == []
    append_row(file, {"method": "bsr(blocks=(3, 7))", "accuracy": 0.5})
    append_row(file, {"method": "full", "accuracy": 0.7})
    assert [row["method"] for row in read_rows(file)] == ["bsr(blocks=(3, 7))", "full"]


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    append_row(file, {"method": "full", "accuracy": 0.7})
    whole = file.read_text()
    for end in range(1, 8):
        file.write_text(whole + "linear,0.5"[:end])
        assert len(read_rows(file)) == 1
        append_row(file, {"method": "linear", "accuracy": 0.6})
        assert [row["accuracy"] for row in read_rows(file)] == ["0.7", "0.6"]
