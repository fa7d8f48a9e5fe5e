"""``bsr-explore report``: a study's tables and figures, from its records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bsr_explorer.cli.comparison_shown import show_comparison
from bsr_explorer.cli.console import out, say_written, table
from bsr_explorer.cli.study_report import write_report
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.comparison_folder import FILE
from bsr_explorer.store.folder import check_writable
from bsr_explorer.units import format_bytes, format_gflops, format_less, format_mb, format_mib


def report(
    study: Annotated[
        Path,
        typer.Argument(metavar="STUDY", help="Folder of a study or a comparison, such as reports/<study>."),
    ],
    venue: Annotated[
        str | None,
        typer.Option(
            help="Make the figures for the pages of aaai, aistats, cvpr, eccv, iclr, icml, jmlr, neurips, tmlr "
            "or uai: as wide, and with text as large, as its template says."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder to write into. The study's own if left out.")
    ] = None,
) -> None:
    """Write a study's front, or a comparison, as tables, figures and pages into its folder, or another.

    Tables are CSV, Markdown and LaTeX, figures PNG, PDF and SVG. For a study, report.html is a page for exploring. It
    needs no network.

    Examples:

      bsr-explore report reports/deit_s-digits-2GB

      bsr-explore report reports/deit_s-digits-2GB --venue neurips

      bsr-explore report reports/examples/deit_s-digits-2GB --out reports/written-anew
    """
    if folder is not None:
        check_writable(folder)
    elif study.is_dir():
        check_writable(study, "STUDY", "write the report elsewhere with --out FOLDER")
    if (study / FILE).exists():
        from bsr_explorer.report.comparison.write import report

        compared = report(study, venue, folder)
        show_comparison(compared)
        say_written(compared.files)
        return
    Findings.read(study)  # where there is none, that is said before figures are imported
    made = write_report(study, venue, to=folder)
    show_found(made.found, study)
    say_written(made.files)


def show_found(found: Findings, folder: Path) -> None:
    """Print the front, the recommendation, and what comes next."""
    from bsr_explorer.report.commands import train_command
    from bsr_explorer.report.front import covered_text

    quality = found.quality
    rows = [
        (
            point.quality.bare(point.score, point.deviation),
            format_mb(point.bytes),
            format_mib(point.bytes),
            format_less(point.saving),
            format_gflops(point.record.predicted["train_flops"], 0),
            format_less(point.compute_saving),
            str(point.number),
            point.method,
        )
        for point in found.front
    ]
    columns = [
        f"{quality.name} {quality.unit}".strip(),
        "MB",
        "MiB",
        "memory",
        "GFLOPs a step",
        "FLOPs",
        "trial",
        "method",
    ]
    out.print(table(columns, rows, title=f"Front: {quality.name} against memory", left=(7,), fold=(7,)))
    seeds = max(point.seeds for point in found.front)
    out.print(
        covered_text(found.hypervolume)
        + (f"; ± is the standard deviation over {seeds} fresh seeds" if seeds > 1 else "")
    )
    full, chosen = found.full, found.recommendation
    out.print(
        f"full fine-tuning: {format_bytes(full['counted_bytes'])}, {format_gflops(full['train_flops'], 0)} GFLOPs "
        "a step\n\n"
        f"[bold]Recommended:[/bold] {escape(chosen.point.method)}\n  {chosen.reason}"
    )
    out.print(f"  to train it in full:  {train_command(folder)}", soft_wrap=True, markup=False)
