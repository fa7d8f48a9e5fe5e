"""What is written of two studies."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from bsr_explorer.report.between.between import Between
from bsr_explorer.report.between.write import write


@pytest.mark.usefixtures("all_formats")
def test_files_say_the_same(halves: tuple[Path, Path], tmp_path: Path) -> None:
    between = Between.read(halves)
    paths = write(between, tmp_path / "both")
    assert [path.name for path in paths] == [
        *("studies.md", "studies.csv", "two_fronts.png", "two_fronts.pdf", "two_fronts.svg")
    ]
    with paths[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [row["trial"] for row in between.rows()]
    page = paths[0].read_text()
    assert page.startswith("# even and odd\n")
    assert between.verdict() in page
    assert json.dumps(between.rows())  # plain values
