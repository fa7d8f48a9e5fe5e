"""A comparison on the terminal, and as plain values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.cli.comparison_shown import Made, show_comparison, show_dry_run
from bsr_explorer.report.comparison import write
from bsr_explorer.report.comparison.write import Report, report


@pytest.fixture
def made(compared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """The report of a finished comparison, without its figures."""
    monkeypatch.setattr(write, "_figures", lambda _: [])
    return report(compared_folder)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_each_method_is_a_row_above_its_ratios(made: Report, capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(made)
    shown = lines(capsys)
    for row in made.rows:
        place = next(place for place, line in enumerate(shown) if line.startswith(f"{row['method']} "))
        assert f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_std']:.1f}" in shown[place]
        assert f"{row['peak_full_over_this']:.2f}x less" in shown[place + 1]
        assert f"{row['train_flops_over_full']:.2f}x" in shown[place + 1]


def test_notes_are_shown_as_they_are(made: Report, capsys: pytest.CaptureFixture[str]) -> None:
    made.notes.append("linear: out of [bold]memory")
    show_comparison(made)
    assert lines(capsys)[-1] == "linear: out of [bold]memory"


def test_what_was_only_planned_says_how_much_is_left(
    made: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for left, said in ((0, "0 tasks"), (1, "1 task"), (7, "7 tasks")):
        show_dry_run(Made(made, tmp_path / "a[old]b", left))
        *_, folder, end = lines(capsys)
        assert folder == f"{said} to do (runs and timings); folder {tmp_path / 'a[old]b'}"
        assert end == "Nothing was trained or written (--dry-run)."


@pytest.mark.parametrize("left", [None, 0, 3])
def test_a_summary_has_files_or_what_is_left(made: Report, tmp_path: Path, left: int | None) -> None:
    said: dict[str, Any] = json.loads(json.dumps(Made(made, tmp_path, left).summary()))
    assert (said["folder"], len(said["methods"])) == (str(tmp_path), 3)
    assert said.get("tasks_left") == left
    assert ("files" in said) == ("notes" in said) == (left is None)


def test_tasks_are_shown_below_their_mean(made: Report, capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(made)
    assert not any(line.startswith("method, % by task") for line in lines(capsys))
    for row in made.rows[:-1]:
        row |= {"accuracy of digits": 0.5, "accuracy of photos": 0.125}
    show_comparison(made)
    shown = lines(capsys)
    place = shown.index("method, % by task digits photos")
    assert shown[place + 1].endswith("50.0 12.5")
    assert not shown[place + len(made.rows)].endswith("12.5")
