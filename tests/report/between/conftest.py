"""Two studies of one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.store.records import read_records, write_record


@pytest.fixture
def halves(finished_once: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two studies: the odd trials of one, and the even ones. More memory gives more accuracy."""
    sizes = sorted(record.study["counted_bytes"] for record in read_records(finished_once).values())
    made = []
    for rest, name in enumerate(("even", "odd")):
        folder = Path(shutil.copytree(finished_once, tmp_path / name))
        for number, record in read_records(folder).items():
            (folder / "records" / f"{number:04d}.json").unlink()
            if number % 2 == rest:
                accuracy = 0.1 + 0.1 * sizes.index(record.study["counted_bytes"])
                study = {**record.study, "name": name}
                write_record(folder, number, replace(record, accuracy=accuracy, study=study))
        made.append(folder)
    return made[0], made[1]
