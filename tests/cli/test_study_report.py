"""The report's page is written by every command that writes a report, and says what the study may choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.cli.study_report import layout_of, write_report
from bsr_explorer.errors import UserError
from bsr_explorer.report.page.layout import Layout
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import FILE, SpaceSpec, Study

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which take seconds to draw."""
    monkeypatch.setattr("bsr_explorer.report.study.write.FIGURES", {})


def test_report_writes_the_page_and_names_it(cli: Cli, study_folder: Path) -> None:
    done = cli("report", study_folder)
    assert done.code == 0
    assert f"  {study_folder}/report.{{md,html}}\n" in done.out
    assert f"bsr-explore reproduce {study_folder} 0" in (study_folder / "report.html").read_text()


def test_the_layout_is_the_studys_space(study_folder: Path) -> None:
    space = Space(Study.from_toml(study_folder / FILE))
    for layout in (layout_of(study_folder), layout_of(Path("elsewhere"), space)):
        assert isinstance(layout, Layout)
        assert len(layout) == len(space)
        assert (layout.bytes == space.grids[0].peak_bytes).all()
        assert {each.bytes for each in layout.beside} == {each.counted_bytes for each in space.beside}
        assert layout.budget == space.study.budget_bytes


def test_a_page_that_cannot_be_written_is_refused(study_folder: Path) -> None:
    (study_folder / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html cannot be written"):
        write_report(study_folder)


def test_the_layout_of_several_families_has_a_grid_of_each(make_study: Callable[..., Study]) -> None:
    spec = SpaceSpec(("linear",), 1, (1,), (1.0, 0.5), families=("bsr", "bsr+mesa(bits=8)"))
    space = Space(make_study(space=spec, budget="1GB"))
    layout = layout_of(Path("elsewhere"), space)
    assert isinstance(layout, Layout)
    assert len(layout) == len(space)
    assert [part.added for part in layout.parts] == [
        "",
        "+mesa(bits=8, groups='heads', ema=0.9)",
        "+mesa(bits=8, groups='channels', ema=0.0, faithful=False)",
    ]
    assert [part.bytes.size for part in layout.parts] == [grid.peak_bytes.size for grid in space.grids]


def test_families_that_are_listed_are_not_laid_out(make_study: Callable[..., Study]) -> None:
    space = Space(make_study(space=SpaceSpec((), families=("last",)), budget="1GB"))
    assert "could have been chosen too" in str(layout_of(Path("elsewhere"), space))
