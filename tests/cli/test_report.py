"""``bsr-explore report``: written anew from the records, and told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bsr_explorer.report.front import front, points, recommend
from bsr_explorer.store.records import read_records

Cli = Callable[..., Any]


def test_the_front_is_shown_and_every_file_is_named(cli: Cli, study_folder: Path) -> None:
    done = cli("report", study_folder)
    assert (done.code, done.err) == (0, "")
    ahead = front(points(read_records(study_folder)))
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    for point in ahead:
        start = f"{100 * point.accuracy:.1f} {point.bytes / 1e6:,.1f} {point.bytes / 2**20:,.1f}"
        assert any(line.startswith(start) for line in lines)
    assert f"Recommended: {recommend(ahead).point.method}" in lines
    named = [Path(line) for line in lines[lines.index("Written:") + 1 :]]
    assert {path.name for path in named} == {
        *("report.md", "front.csv", "trials.csv", "front.png", "front.pdf"),
        *("memory_by_block.png", "memory_by_block.pdf", "calibration.png", "calibration.pdf"),
        *("study.toml", "study.db", "records"),
    }
    assert all(path.exists() for path in named)


def test_records_alone_are_enough(cli: Cli, study_folder: Path) -> None:
    (study_folder / "study.toml").unlink()
    (study_folder / "study.db").unlink()
    done = cli("report", study_folder)
    assert done.code == 0
    assert "study.db" not in done.out
    assert (study_folder / "report.md").exists()
