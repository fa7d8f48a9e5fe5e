"""Everything that is written of a comparison, from its folder alone: tables, figures and a page of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.report import style
from bsr_explorer.report.comparison.latex import latex
from bsr_explorer.report.comparison.line import Line, lines_of
from bsr_explorer.report.comparison.page import page
from bsr_explorer.report.comparison.said import notes_of
from bsr_explorer.report.comparison.table import row
from bsr_explorer.report.figures import accountings, bars
from bsr_explorer.report.figures import comparison as figure
from bsr_explorer.store.comparison_folder import (
    Comparison,
    StepTimes,
    read_comparison,
    read_runs,
    read_step_times,
)
from bsr_explorer.store.records import write_text


@dataclass(frozen=True)
class Report:
    """What a comparison came to, and the files that say so."""

    comparison: Comparison
    lines: list[Line]
    rows: list[dict[str, Any]]
    notes: list[str]
    files: list[Path]


def report(folder: Path, venue: str | None = None, to: Path | None = None) -> Report:
    """Write a comparison's tables and figures, from what is in its folder.

    Args:
        folder: of the comparison.
        venue: key of ``style.VENUES`` whose pages the figures are made for; None: figures for a screen.
        to: the folder to write into; None: the comparison's own.

    Raises:
        UserError: no comparison there, files in it that cannot be read or written, or an unknown venue.
    """
    made_for = style.Page() if venue is None else style.page_of(venue)
    comparison = read_comparison(folder)
    if comparison is None:
        raise UserError(f"STUDY: {folder} is not the folder of a comparison")
    lines = lines_of(comparison, read_runs(comparison, folder), read_step_times(folder))
    rows, notes = [row(line, lines, comparison) for line in lines], notes_of(lines)
    to = to or folder
    text, table, tex = (to / f"comparison.{kind}" for kind in ("md", "csv", "tex"))
    try:
        write_text(table, pd.DataFrame(rows).convert_dtypes(convert_floating=False).to_csv(index=False))
        write_text(tex, latex(comparison, lines, rows))
        with style.made_for(made_for):
            drawn = [path for draw in _figures(lines) for path in draw(comparison, lines, to / "figures")]
        write_text(text, page(comparison, lines, rows, notes, drawn))
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, error.filename or to)}") from None
    return Report(comparison, lines, rows, notes, [text, table, tex, *drawn])


def _figures(lines: Sequence[Line]) -> list[Callable[[Comparison, Sequence[Line], Path], list[Path]]]:
    """The figures that there is something for."""
    known = [figure.draw] if any(line.score is not None for line in lines) else []
    ruled = [accountings.draw] if any(line.entry.published_bytes is not None for line in lines) else []
    return [*known, bars.draw, *ruled]


def predicted(comparison: Comparison) -> Report:
    """What is known of a comparison before anything runs; writes nothing."""
    lines = lines_of(comparison, {}, StepTimes())
    return Report(comparison, lines, [row(line, lines, comparison) for line in lines], [], [])
