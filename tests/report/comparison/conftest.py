"""Comparisons and their reports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bsr_explorer.report.comparison.write import Report, report


@pytest.fixture(scope="session")
def written(compared_once: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A comparison's folder and its report. Not to be changed."""
    folder = Path(shutil.copytree(compared_once, tmp_path_factory.mktemp("written") / "toy-comparison"))
    return folder, report(folder)
