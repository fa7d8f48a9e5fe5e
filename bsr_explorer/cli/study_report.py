"""Writes the whole report of a study, its HTML page included, for every command that needs it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.store.study import FILE, Study

if TYPE_CHECKING:
    from bsr_explorer.report.page.layout import Layout
    from bsr_explorer.report.study.write import Report
    from bsr_explorer.search.space import Space


def write_report(
    folder: Path, venue: str | None = None, space: Space | None = None, to: Path | None = None
) -> Report:
    """Write a study's tables, figures and pages.

    Args:
        venue, to: see ``report.study.write.report``.
        space: of the study, where it is laid out already.

    Raises:
        UserError: as ``report.study.write.report``, or the page cannot be written.
    """
    from bsr_explorer.cli.study_strip import strip_of
    from bsr_explorer.report.page import page
    from bsr_explorer.report.study.write import report

    made = report(folder, venue, to, lambda found, figures: strip_of(found, folder, figures))
    try:
        written = page.write(made.found, folder, layout_of(folder, space), to, made.strip)
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, (to or folder) / page.NAME)}") from None
    first, *others = made.files
    return replace(made, files=[first, written, *others])


def is_written(folder: Path) -> bool:
    """Whether a study has its report: the page, which is written last, is no older than any record. Otherwise Ctrl-C
    came before the report, or in its midst."""
    from bsr_explorer.report.page import page

    if not (folder / page.NAME).exists():
        return False
    written = (folder / page.NAME).stat().st_mtime_ns
    return all(record.stat().st_mtime_ns <= written for record in folder.glob("records/*.json"))


MOST_APART = 100
"""Configurations beside the grid that a page has room for."""


def layout_of(folder: Path, space: Space | None = None) -> Layout | str:
    """All that a study may choose among; or why that cannot be said."""
    from bsr_explorer.report.page.layout import Beside, Layout, Part

    if space is None:
        if not (folder / FILE).is_file():
            return f"There is no {FILE} in this folder, which would say what else could have been chosen."
        from bsr_explorer.search.space import Space

        try:
            space = Space(Study.from_toml(folder / FILE))
        except UserError as error:
            return f"What else could have been chosen cannot be said: {error}"
    study, grids = space.study, space.laid
    others = list(itertools.islice(space.apart, MOST_APART + 1))
    if not grids or len(others) > MOST_APART:
        return (
            f"The {len(space):,} configurations of {', '.join(study.space.families)} could have been chosen too. "
            "They are not laid out here: a page lays out grids of blocks and token drops, and few configurations "
            "beside them."
        )
    beside = dict.fromkeys(
        Beside(str(each.config.method), each.config.batch_size, each.counted_bytes) for each in others
    )
    first, *more = (
        Part(grid.bytes(study.counts), grid.masks, grid.schedules, added and f"+{added}")
        for added, grid in grids
    )
    return Layout(
        bytes=first.bytes,
        masks=first.masks,
        schedules=first.schedules,
        batch_sizes=space.batch_sizes,
        rates=len(space.rates),
        beside=list(beside),
        budget=study.budget_bytes,
        added=first.added,
        more=more,
    )
