"""What is written of two studies side by side: a table, a page of Markdown, and a figure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.report.between.between import Between
from bsr_explorer.report.figures import two_fronts
from bsr_explorer.report.markup import markdown
from bsr_explorer.store.records import write_text
from bsr_explorer.store.study import COUNTS
from bsr_explorer.units import format_mb, format_mib


def write(between: Between, folder: Path) -> list[Path]:
    """Write the table (CSV), a page of Markdown and the figure of both fronts; returns their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    page, table = folder / "studies.md", folder / "studies.csv"
    try:
        write_text(table, pd.DataFrame(between.rows()).to_csv(index=False))
        drawn = two_fronts.draw(between, folder / "figures")
        write_text(page, _page(between))
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, error.filename or folder)}") from None
    return [page, table, *drawn]


def readable(between: Between) -> list[dict[str, str]]:
    """The rows, scaled for reading."""
    quality = between.quality
    return [
        {
            quality.column: quality.bare(quality.score(row[quality.name]), row[f"{quality.name}_std"]),
            "MB": format_mb(row["counted_bytes"]),
            "MiB": format_mib(row["counted_bytes"]),
            "study": row["study"],
            "only there": "yes" if row["only_there"] else "",
            "trial": str(row["trial"]),
            "method": row["method"],
        }
        for row in between.rows()
    ]


def _page(between: Between) -> str:
    names = [side.name for side in between.sides]
    good = f"{'much' if between.quality.higher else 'low a'} {between.quality.name}"
    lines = [
        f"# {names[0]} and {names[1]}",
        "",
    ]
    if between.differences:
        lines += [between.warning(), "", *(f"- {difference}" for difference in between.differences), ""]
    lines += [
        f"Counted is {COUNTS[between.counts]}. Hypervolume: {between.verdict()}.",
        "",
        markdown(pd.DataFrame(readable(between)), as_text=True),
        "",
        "*Only there*: the other study did not train it"
        + (f", and has nothing with as {good} for as little memory." if between.comparable else "."),
        "",
        "![both fronts](figures/two_fronts.png)",
        "",
    ]
    return "\n".join(lines)
