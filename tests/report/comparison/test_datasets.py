"""One table of the same methods on several data sets."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import AUTHORS, Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.report.comparison.datasets import write
from bsr_explorer.report.comparison.write import predicted, report
from bsr_explorer.units import format_mb

MakeComparison = Callable[..., Any]


def test_a_method_is_a_row_and_a_data_set_a_column(
    compared_folder: Path, make_comparison: MakeComparison, toy: str, tmp_path: Path
) -> None:
    run = report(compared_folder)
    config = Config(toy, 48, batch_size=4, num_classes=100)
    not_run = predicted(make_comparison(config=config, data="cifar100"))
    page, table, tex = write([run, not_run], tmp_path)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["full", "linear", "last(k=1)"]
    for row, on, other in zip(rows, run.rows, not_run.rows, strict=True):
        assert float(row["digits_accuracy"]) == on["accuracy"]
        assert (row["cifar100_status"], row["cifar100_accuracy"]) == ("not run here", "")
        assert int(row["peak_bytes"]) == max(on["peak_bytes"], other["peak_bytes"]) == other["peak_bytes"]
    text = page.read_text()
    assert text.startswith("# toy on digits, cifar100\n")
    (last,) = [line for line in text.splitlines() if line.startswith("| `last(k=1)`")]
    cells = [cell.strip() for cell in last.split("|")]
    assert f"{100 * run.rows[2]['accuracy']:.1f} ± {100 * run.rows[2]['accuracy_std']:.1f}" in cells
    assert "not run here" in cells
    full, mine = not_run.comparison.full.peak_bytes, not_run.rows[2]["peak_bytes"]
    assert f"{format_mb(mine)} ({full / mine:.2f}x)" in cells
    (least,) = [line for line in tex.read_text().splitlines() if line.startswith("\\texttt{linear}")]
    assert f"\\textbf{{{format_mb(not_run.rows[1]['peak_bytes'])} " in least
    assert "over 2 seeds" in tex.read_text()


def test_a_dash_stands_where_there_is_no_rule(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = predicted(make_comparison("full, mesa"))
    page, *_ = write([made, replace(made)], tmp_path)
    assert [" — " in line for line in page.read_text().splitlines() if line.startswith("| `")] == [
        False,
        True,
    ]


def test_the_authors_protocol_is_marked(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = predicted(make_comparison(fidelity=Fidelity(protocol="authors")))
    for path in write([made, replace(made)], tmp_path):
        assert "authors" in path.read_text()
    assert f"digits (%), {AUTHORS.mark}" in (tmp_path / "table.md").read_text()
    assert AUTHORS.mark in (tmp_path / "table.tex").read_text()


def test_a_folder_that_cannot_be_written_is_refused(make_comparison: MakeComparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"--out: .*file.* cannot be written"):
        write([predicted(make_comparison())], tmp_path / "file")
