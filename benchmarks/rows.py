"""Tables that grow by a line a training, and go on after a kill."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV; none if there is no file. A last line that a kill tore is cut off."""
    if not file.exists():
        return []
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(file, len(whole))
    return list(csv.DictReader(whole.decode().splitlines()))


def append_row(file: Path, row: Mapping[str, object]) -> None:
    """One line more, on disk before this returns."""
    with file.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, list(row), lineterminator="\n")
        if not lines.tell():
            writer.writeheader()
        writer.writerow(row)
        lines.flush()
        os.fsync(lines.fileno())
