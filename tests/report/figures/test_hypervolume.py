"""Hypervolume against cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.report.figures.hypervolume import draw
from bsr_explorer.report.study.findings import Findings
from tests.report.figures.conftest import offsets


def test_it_grows_with_the_images_trained_to_that_of_the_front(
    found: Findings, drawn: list[Any], tmp_path: Path
) -> None:
    draw(found, tmp_path)
    _, axes = drawn[0]
    (line,) = axes.lines
    images, volumes = list(line.get_xdata()), list(line.get_ydata())
    assert images[0] == volumes[0] == 0
    assert images[-1] == sum(record.images_trained for record in found.records.values())
    assert volumes == sorted(volumes)
    assert volumes[-1] == pytest.approx(found.hypervolume)
    assert len(offsets(axes)) == len(found.records)


def test_fresh_seeds_of_a_front_are_no_cost_of_finding_it(
    sure: Findings, drawn: list[Any], tmp_path: Path
) -> None:
    draw(sure, tmp_path)
    _, axes = drawn[0]
    assert len(offsets(axes)) == len(sure.records) - 2


def test_it_ends_at_the_reports_own_number(sure: Findings, drawn: list[Any], tmp_path: Path) -> None:
    """Also where the means over fresh seeds are not what the search had seen."""
    draw(sure, tmp_path)
    _, axes = drawn[0]
    assert axes.lines[0].get_ydata()[-1] == sure.hypervolume
    assert [text.get_text() for text in axes.texts] == [f"{sure.hypervolume:.4f}"]
    assert axes.get_ylabel() == "hypervolume (of 1),\nby means over fresh seeds"
    alone = Findings({number: record for number, record in sure.records.items() if number < 7})
    assert alone.hypervolume != sure.hypervolume
