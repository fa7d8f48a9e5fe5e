"""Tables that grow by a line a training, and go on after a kill."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_rows(file: Path, last: str) -> list[dict[str, str]]:
    """The rows of a file, without one that a kill tore; none where there is no file.

    Args:
        last: the last column, which a torn row lacks.
    """
    if not file.exists():
        return []
    with file.open() as lines:
        return [row for row in csv.DictReader(lines) if row[last] is not None]


def append_row(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row; what a kill tore before is ended first."""
    new = not file.exists()
    torn = not new and file.stat().st_size and not file.read_bytes().endswith(b"\n")
    with file.open("a") as lines:
        if torn:
            lines.write("\n")
        writer = csv.DictWriter(lines, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
