"""``bsr-explore compare-studies``: what each of two studies found that the other did not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.console import out, say_written, table
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.folder import check_writable
from bsr_explorer.store.study import COUNTS
from bsr_explorer.units import format_bytes, plural

if TYPE_CHECKING:
    from bsr_explorer.report.between.between import Between


def compare_studies(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a study.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of another study.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Also write the table, a page and a figure into this folder.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare the fronts of two studies: hypervolumes up to one reference, and what only one of them found.

    The reference is the smaller of both budgets, within which both have searched.

    Examples:

      bsr-explore compare-studies reports/random reports/exact

      bsr-explore compare-studies reports/random reports/exact --out reports/both
    """
    if folder is not None:
        check_writable(folder)
    for study in (first, second):
        Findings.read(study)  # where there is none, that is said before figures are imported
    from bsr_explorer.report.between.between import Between
    from bsr_explorer.report.between.write import write

    between = Between.read((first, second))
    files = [] if folder is None else write(between, folder)
    if as_json:
        print(json.dumps(_answer(between, files)))
        return
    _show(between)
    if files:
        say_written(files)


def _show(between: Between) -> None:
    from bsr_explorer.report.between.write import readable

    if between.differences:  # first of all, for it decides what the numbers below are worth
        out.print(between.warning(), style="yellow", markup=False)
        for difference in between.differences:
            out.print(f"  {difference}", style="yellow", markup=False, soft_wrap=True)
        out.print()
    rows = readable(between)
    out.print(table(list(rows[0]), [list(row.values()) for row in rows], left=(3, 4, 6), fold=(6,)))
    out.print(f"\ncounted is {COUNTS[between.counts]}", markup=False)
    out.print(f"hypervolume: {between.verdict()}", markup=False)
    for place, side in enumerate(between.sides):
        ahead = [f"trial {point.number} ({point.said})" for point in between.lacking(place)]
        out.print(f"only {side.name} has: {', '.join(ahead) or 'nothing'}", markup=False, soft_wrap=True)
        if side.beyond:
            out.print(
                f"{side.name}: {plural(side.beyond, 'point')} of its front beyond {format_bytes(between.reference)}",
                markup=False,
            )


def _answer(between: Between, files: list[Path]) -> dict[str, Any]:
    return {
        "reference_bytes": between.reference,
        "counts": between.counts,
        "studies": [
            {
                "name": side.name,
                "hypervolume": volume,
                "only": [point.number for point in between.lacking(place)],
                "beyond_the_reference": side.beyond,
            }
            for place, (side, volume) in enumerate(zip(between.sides, between.volumes[:2], strict=True))
        ],
        "comparable": between.comparable,
        "hypervolume_of_both": between.volumes[2] if between.comparable else None,
        "fronts": between.rows(),
        "differences": between.differences,
        "files": [str(path) for path in files],
    }
