"""All figures: each writes its three files, the same when made again, and in the fonts that journals take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.report import style
from bsr_explorer.report.figures import FIGURES
from bsr_explorer.report.study.findings import Findings
from tests.report.figures.conftest import check_readable


@pytest.mark.thorough
@pytest.mark.usefixtures("all_formats")
@pytest.mark.parametrize("title", FIGURES)
def test_every_figure_is_the_same_when_made_again(found: Findings, tmp_path: Path, title: str) -> None:
    first, again = (FIGURES[title](found, tmp_path / name) for name in ("first", "again"))
    assert [path.suffix for path in first] == [".png", ".pdf", ".svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert b"/Type3" not in first[1].read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("title", FIGURES)
def test_a_figure_of_small_values_can_be_read(
    sure: Findings, drawn: list[tuple[Any, Any]], tmp_path: Path, title: str
) -> None:
    """Of megabytes and GFLOPs below 1."""
    FIGURES[title](sure, tmp_path)
    check_readable(drawn[0][0])


@pytest.mark.thorough
@pytest.mark.parametrize("title", FIGURES)
def test_one_trial_alone_can_be_drawn(
    found: Findings, drawn: list[tuple[Any, Any]], tmp_path: Path, title: str
) -> None:
    alone = Findings({0: found.records[0]})
    assert all(path.stat().st_size > 1000 for path in FIGURES[title](alone, tmp_path))
    check_readable(drawn[0][0])


@pytest.mark.thorough
@pytest.mark.parametrize("title", FIGURES)
def test_every_figure_fits_a_venues_page(
    found: Findings, drawn: list[tuple], tmp_path: Path, title: str
) -> None:
    page = style.page_of("icml")
    with style.made_for(page):
        FIGURES[title](found, tmp_path)
    for figure, _ in drawn:
        assert figure.get_size_inches()[0] in (page.full, page.half)
